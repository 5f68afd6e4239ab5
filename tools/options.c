/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Parser and printer for the tables of options.h, on getopt_long: grouped letters, values joined to their
 * letter, unambiguous abbreviations and operands in any place work as users of qemu-img know them. */
#include "options.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "tool.h"

#define HELP_COLUMN 30
#define HELP_WIDTH  90
/* Values of long options in getopt's answer; letters are below. */
#define FIRST_LONG 256
#define HELP_VALUE 1

static const struct
{
  const char *name;
  VhdkitCacheMode mode;
} cache_modes[] = {
  { "writeback", VHDKIT_CACHE_WRITEBACK },
  { "none", VHDKIT_CACHE_NONE },
  { "off", VHDKIT_CACHE_NONE },
  { "writethrough", VHDKIT_CACHE_WRITETHROUGH },
  { "directsync", VHDKIT_CACHE_DIRECTSYNC },
  { "unsafe", VHDKIT_CACHE_UNSAFE },
};

void
options_clear (const OptionDef *table, void *target)
{
  for (const OptionDef *option = table; option->kind != OPTION_END; option++)
    if (option->kind == OPTION_LIST)
      g_clear_pointer ((GPtrArray **)((char *)target + option->offset), g_ptr_array_unref);
}

static int64_t
suffix_multiplier (char suffix)
{
  switch (g_ascii_tolower (suffix))
    {
    case 'b':
      return 1;
    case 'k':
      return INT64_C (1) << 10;
    case 'm':
      return INT64_C (1) << 20;
    case 'g':
      return INT64_C (1) << 30;
    case 't':
      return INT64_C (1) << 40;
    case 'p':
      return INT64_C (1) << 50;
    case 'e':
      return INT64_C (1) << 60;
    default:
      return 0;
    }
}

/* Digits of @base at *@text, which moves on; false: none, or more than fits. */
static bool
parse_digits (const char **text, unsigned base, uint64_t *value)
{
  const char *p = *text;
  *value = 0;
  for (int digit; (digit = g_ascii_xdigit_value (*p)) >= 0 && (unsigned)digit < base; p++)
    if (__builtin_mul_overflow (*value, (uint64_t)base, value)
        || __builtin_add_overflow (*value, (uint64_t)digit, value))
      return false;
  if (p == *text)
    return false;
  *text = p;
  return true;
}

static bool
is_hex (const char *text)
{
  return text[0] == '0' && g_ascii_tolower (text[1]) == 'x';
}

bool
parse_size (const char *text, int64_t *bytes)
{
  uint64_t whole;
  if (is_hex (text))
    {
      text += 2;
      if (!parse_digits (&text, 16, &whole) || *text != '\0' || whole > INT64_MAX)
        return false;
      *bytes = (int64_t)whole;
      return true;
    }
  if (!parse_digits (&text, 10, &whole))
    return false;

  uint64_t fraction = 0, scale = 1;
  bool has_fraction = *text == '.';
  if (has_fraction)
    {
      const char *start = ++text;
      if (!parse_digits (&text, 10, &fraction) || text - start > 15)
        return false;
      for (const char *p = start; p < text; p++)
        scale *= 10;
    }
  int64_t multiplier = 1;
  if (*text != '\0')
    {
      multiplier = suffix_multiplier (*text);
      if (multiplier == 0 || text[1] != '\0')
        return false;
    }
  if (has_fraction && multiplier == 1)
    return false;
  if (whole > (uint64_t)INT64_MAX / (uint64_t)multiplier)
    return false;
  /* Multipliers are powers of two. */
  uint64_t part = 0;
  for (int64_t m = multiplier; m > 1; m /= 2)
    {
      fraction *= 2;
      part = 2 * part + fraction / scale;
      fraction %= scale;
    }
  uint64_t total = whole * (uint64_t)multiplier + part;
  if (total > INT64_MAX)
    return false;
  *bytes = (int64_t)total;
  return true;
}

static bool
parse_number (const char *text, int64_t *number)
{
  uint64_t value;
  unsigned base = is_hex (text) ? 16 : 10;
  text += base == 16 ? 2 : 0;
  if (!parse_digits (&text, base, &value) || *text != '\0' || value > INT64_MAX)
    return false;
  *number = (int64_t)value;
  return true;
}

void
split_format_options (const char *text, GPtrArray *list)
{
  g_autoptr (GString) item = g_string_new (NULL);
  for (const char *p = text;; p++)
    {
      if (*p == ',' && p[1] == ',')
        g_string_append_c (item, *p++);
      else if (*p == ',' || *p == '\0')
        {
          if (item->len > 0)
            g_ptr_array_add (list, g_strdup (item->str));
          g_string_truncate (item, 0);
          if (*p == '\0')
            return;
        }
      else
        g_string_append_c (item, *p);
    }
}

/* "-f" or "--format", as the user is likely to have written it. */
static char *
option_display_name (const OptionDef *option)
{
  return option->name != NULL ? g_strdup_printf ("--%s", option->name)
                              : g_strdup_printf ("-%c", option->letter);
}

static bool fail (GError **error, const char *format, ...) G_GNUC_PRINTF (2, 3);

static bool
fail (GError **error, const char *format, ...)
{
  va_list args;
  va_start (args, format);
  g_autofree char *text = g_strdup_vprintf (format, args);
  va_end (args);
  g_set_error_literal (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT, text);
  return false;
}

static bool
store_number (const OptionDef *option, int64_t *slot, const char *value, GError **error)
{
  g_autofree char *name = option_display_name (option);
  int64_t number;
  bool size = option->kind == OPTION_SIZE;
  if (!(size ? parse_size (value, &number) : parse_number (value, &number)))
    return size ? fail (error, "%s: '%s' is not a size (digits, then k, M, G, T, P or E)", name, value)
                : fail (error, "%s: '%s' is not a number", name, value);
  int64_t max = option->max != 0 ? option->max : INT64_MAX;
  if (number < option->min || number > max)
    return fail (error, "%s: %s is out of range (%" G_GINT64_FORMAT " to %" G_GINT64_FORMAT ")", name, value,
                 option->min, max);
  *slot = number;
  return true;
}

static bool
store_cache (const OptionDef *option, VhdkitCacheMode *slot, const char *value, GError **error)
{
  for (size_t i = 0; i < G_N_ELEMENTS (cache_modes); i++)
    if (strcmp (cache_modes[i].name, value) == 0)
      {
        *slot = cache_modes[i].mode;
        return true;
      }
  return fail (error, "-%c: unknown cache mode '%s' (writeback, none, writethrough, directsync, unsafe)",
               option->letter, value);
}

static bool
store_format (const char **slot, const char *value, GError **error)
{
  const VhdkitFormatInfo *format = vhdkit_find_format (value);
  if (format != NULL)
    {
      *slot = format->name;
      return true;
    }
  g_autoptr (GString) known = g_string_new (NULL);
  for (const VhdkitFormatInfo *const *f = vhdkit_list_formats (); *f != NULL; f++)
    g_string_append_printf (known, "%s%s", known->len > 0 ? ", " : "", (*f)->name);
  return fail (error, "unknown format '%s' (known: %s)", value, known->str);
}

static void
store_in_list (GPtrArray **slot, const char *value)
{
  if (*slot == NULL)
    {
      *slot = g_ptr_array_new ();
      g_ptr_array_add (*slot, NULL);
    }
  g_ptr_array_insert (*slot, (gint)(*slot)->len - 1, (gpointer)value);
}

static bool
store (const OptionDef *option, void *target, const char *value, GError **error)
{
  void *slot = (char *)target + option->offset;
  switch (option->kind)
    {
    case OPTION_FLAG:
      *(bool *)slot = true;
      return true;
    case OPTION_STRING:
      *(const char **)slot = value;
      return true;
    case OPTION_FORMAT:
      return store_format (slot, value, error);
    case OPTION_LIST:
      store_in_list (slot, value);
      return true;
    case OPTION_NUMBER:
    case OPTION_SIZE:
      return store_number (option, slot, value, error);
    case OPTION_CACHE:
      return store_cache (option, slot, value, error);
    case OPTION_OUTPUT:
      if (strcmp (value, "human") != 0 && strcmp (value, "json") != 0)
        return fail (error, "--output: '%s' is neither human nor json", value);
      *(OutputFormat *)slot = value[0] == 'j' ? OUTPUT_JSON : OUTPUT_HUMAN;
      return true;
    case OPTION_PROGRESS:
      if (value != NULL && strcmp (value, "human") != 0 && strcmp (value, "json") != 0)
        return fail (error, "--progress: '%s' is neither human nor json", value);
      *(ProgressStyle *)slot = value != NULL && value[0] == 'j' ? PROGRESS_JSON : PROGRESS_HUMAN;
      return true;
    case OPTION_REFUSED:
      return fail (error, "-%c: %s", option->letter, option->help);
    case OPTION_END:
      break;
    }
  g_assert_not_reached ();
}

static const OptionDef *
find_row (const OptionDef *table, int answer)
{
  if (answer >= FIRST_LONG)
    return &table[answer - FIRST_LONG];
  for (const OptionDef *option = table; option->kind != OPTION_END; option++)
    if (option->letter == answer)
      return option;
  return NULL;
}

ProgressStyle
options_get_progress (const OptionDef *table, const void *target)
{
  for (const OptionDef *option = table; option->kind != OPTION_END; option++)
    if (option->kind == OPTION_PROGRESS)
      return *(const ProgressStyle *)((const char *)target + option->offset);
  return PROGRESS_NONE;
}

/* What is wrong where a letter without a value is followed by "=": "-p=json". */
static const char *
find_long_name (const OptionDef *table, int letter)
{
  const OptionDef *option = letter > 0 && letter < FIRST_LONG ? find_row (table, letter) : NULL;
  return option != NULL && option->kind == OPTION_PROGRESS ? option->name : NULL;
}

/* What getopt_long () is given. */
typedef struct
{
  int argc;
  char **argv;
  GString *letters;
  GArray *longs; /* of struct option */
} OptionScan;

static int
next_option (const OptionScan *scan)
{
  return getopt_long (scan->argc, scan->argv, scan->letters->str, (struct option *)scan->longs->data, NULL);
}

static bool
parse_options (const OptionScan *scan, const OptionDef *table, void *target, bool *help, GError **error)
{
  int answer, before = 0;
  while ((answer = next_option (scan)) != -1)
    {
      const char *given = scan->argv[optind - 1];
      bool by_letter = optopt > 0 && optopt < FIRST_LONG && optopt != HELP_VALUE;
      if (answer == 'h' || answer == HELP_VALUE)
        {
          *help = true;
          return true;
        }
      if (answer == ':')
        return by_letter ? fail (error, "option '-%c' needs a value", optopt)
                         : fail (error, "option '%s' needs a value", given);
      if (answer == '?' && by_letter && g_ascii_isdigit (optopt))
        return fail (error, "'-%c…': sizes and numbers are not negative", optopt);
      const char *name_of_letter = answer == '?' && optopt == '=' ? find_long_name (table, before) : NULL;
      if (name_of_letter != NULL)
        return fail (error, "'-%c=…': with a value it is called --%s", before, name_of_letter);
      if (answer == '?')
        {
          g_autofree char *name = by_letter ? g_strdup_printf ("-%c", optopt) : g_strdup (given);
          g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND, "unknown option '%s'", name);
          return false;
        }
      if (!store (find_row (table, answer), target, optarg, error))
        return false;
      before = answer;
    }
  return true;
}

/* Behind an option that is wrong: how that is to be told. */
static void
find_progress (const OptionScan *scan, const OptionDef *table, void *target)
{
  int answer;
  while ((answer = next_option (scan)) != -1)
    {
      const OptionDef *option =
          answer >= FIRST_LONG && answer != HELP_VALUE ? find_row (table, answer) : NULL;
      if (option != NULL && option->kind == OPTION_PROGRESS && !store (option, target, optarg, NULL))
        return;
    }
}

bool
options_parse (const OptionDef *table, void *target, int argc, char **argv, char ***operands, bool *help,
               GError **error)
{
  g_autoptr (GString) letters = g_string_new (":h");
  g_autoptr (GArray) longs = g_array_new (TRUE, TRUE, sizeof (struct option));
  for (int i = 0; table[i].kind != OPTION_END; i++)
    {
      bool has_value = table[i].value != NULL;
      if (table[i].letter != 0)
        g_string_append_printf (letters, "%c%s", table[i].letter, has_value ? ":" : "");
      int argument = table[i].kind == OPTION_PROGRESS ? optional_argument
                     : has_value                      ? required_argument
                                                      : no_argument;
      struct option entry = { table[i].name, argument, NULL, FIRST_LONG + i };
      if (table[i].name != NULL)
        g_array_append_val (longs, entry);
    }
  struct option help_entry = { "help", no_argument, NULL, HELP_VALUE };
  g_array_append_val (longs, help_entry);

  *help = false;
  *operands = NULL;
  opterr = 0;
  optind = 0; /* glibc: start afresh */
  OptionScan scan = { argc, argv, letters, longs };
  if (!parse_options (&scan, table, target, help, error))
    {
      find_progress (&scan, table, target);
      return false;
    }
  if (*help)
    return true;
  *operands = g_new0 (char *, argc - optind + 1);
  for (int i = optind; i < argc; i++)
    (*operands)[i - optind] = argv[i];
  return true;
}

/* --- printing --------------------------------------------------------------------------------------------
 */

char *
option_synopsis (const OptionDef *option)
{
  g_autoptr (GString) text = g_string_new (NULL);
  if (option->letter != 0)
    g_string_append_printf (text, "-%c", option->letter);
  if (option->name != NULL)
    g_string_append_printf (text, "%s--%s", option->letter != 0 ? ", " : "", option->name);
  if (option->kind == OPTION_PROGRESS)
    g_string_append (text, "[=json]");
  if (option->value != NULL)
    g_string_append_printf (text, "%c%s", option->name != NULL ? '=' : ' ', option->value);
  return g_string_free (g_steal_pointer (&text), FALSE);
}

void
print_wrapped (const char *text, int column, int indent, int width)
{
  bool first = true;
  while (*text != '\0')
    {
      int length = (int)strcspn (text, " ");
      if (!first && column + 1 + length > width)
        {
          printf ("\n%*s", indent, "");
          column = indent;
          first = true;
        }
      printf ("%s%.*s", first ? "" : " ", length, text);
      column += length + (first ? 0 : 1);
      first = false;
      text += length;
      text += strspn (text, " ");
    }
  putchar ('\n');
}

void
options_print (const OptionDef *table, OptionSection section, const char *title)
{
  bool any = false;
  for (const OptionDef *option = table; option->kind != OPTION_END; option++)
    {
      if (option->section != section || option->kind == OPTION_REFUSED)
        continue;
      if (!any)
        printf ("\n%s:\n", title);
      any = true;
      g_autofree char *synopsis = option_synopsis (option);
      int column = printf ("  %s%s", option->letter != 0 ? "" : "    ", synopsis);
      if (column + 2 > HELP_COLUMN)
        {
          putchar ('\n');
          column = 0;
        }
      printf ("%*s", HELP_COLUMN - column, "");
      print_wrapped (option->help, HELP_COLUMN, HELP_COLUMN, HELP_WIDTH);
    }
}
