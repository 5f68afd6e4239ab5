/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Options as text, checked against a driver's table.
 *
 * All is validated when it is parsed, so the getters cannot fail.  Integers are kept beside the text.
 */
#include "core-int.h"

#include <errno.h>
#include <string.h>

typedef struct
{
  char *text;
  int64_t number; /* of NUMBER and SIZE; 0 or 1 of BOOL */
} OptionValue;

struct BlockOptions
{
  GHashTable *values; /* name, borrowed from the table, to OptionValue * */
};

static void
option_value_free (gpointer data)
{
  OptionValue *value = data;

  g_free (value->text);
  g_free (value);
}

void
block_options_free (BlockOptions *options)
{
  if (!options)
    return;
  g_hash_table_unref (options->values);
  g_free (options);
}

static bool
parse_bool (const char *text, int64_t *value)
{
  static const char *const words[][2] = {
    { "off", "on" }, { "no", "yes" }, { "false", "true" }, { "0", "1" }
  };

  for (size_t i = 0; i < G_N_ELEMENTS (words); i++)
    for (int j = 0; j < 2; j++)
      if (g_ascii_strcasecmp (text, words[i][j]) == 0)
        {
          *value = j;
          return true;
        }
  return false;
}

static bool
parse_number (const char *text, bool suffix_allowed, int64_t *value)
{
  static const char suffixes[] = "kmgtpe";
  bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
  const char *digits = text + (hex ? 2 : 0);
  char *end;

  /* strtoull takes signs and blanks, we do not. */
  if (!(hex ? g_ascii_isxdigit (*digits) : g_ascii_isdigit (*digits)))
    return false;
  errno = 0;
  guint64 number = g_ascii_strtoull (digits, &end, hex ? 16 : 10);
  if (errno != 0 || number > INT64_MAX)
    return false;

  if (suffix_allowed && *end != '\0')
    {
      const char *suffix = strchr (suffixes, g_ascii_tolower (*end));
      if (suffix)
        {
          int shift = 10 * (int)(suffix - suffixes + 1);
          if (number > (guint64)INT64_MAX >> shift)
            return false;
          number <<= shift;
          end++;
        }
      else if (*end == 'b' || *end == 'B')
        end++;
    }
  *value = number;
  return *end == '\0';
}

static const BlockOptionDef *
find_def (const BlockOptionDef *defs, const char *name, size_t len)
{
  for (; defs && defs->name; defs++)
    if (strlen (defs->name) == len && memcmp (defs->name, name, len) == 0)
      return defs;
  return NULL;
}

static void
set_unknown_error (GError **error, const BlockOptionDef *defs, const char *name, size_t len)
{
  g_autoptr (GString) known = g_string_new (NULL);
  g_autofree char *copy = g_strndup (name, len);
  g_autofree char *shown = bdrv_printable (copy);

  for (; defs && defs->name; defs++)
    g_string_append_printf (known, "%s%s", known->len > 0 ? ", " : "", defs->name);
  g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT, "unknown option '%s', expected %s%s",
               shown, known->len > 0 ? "one of: " : "none", known->str);
}

static bool
parse_value (const BlockOptionDef *def, const char *text, int64_t *number, GError **error)
{
  const char *expected;
  bool ok;

  switch (def->type)
    {
    case BLOCK_OPTION_BOOL:
      ok = parse_bool (text, number);
      expected = "on or off";
      break;
    case BLOCK_OPTION_NUMBER:
      ok = parse_number (text, false, number);
      expected = "a number from 0 to 9223372036854775807";
      break;
    case BLOCK_OPTION_SIZE:
      ok = parse_number (text, true, number);
      expected = "a number of bytes, with an optional suffix k, M, G, T, P or E, below 8E";
      break;
    default:
      return true;
    }
  if (!ok)
    {
      g_autofree char *shown = bdrv_printable (text);
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT, "option '%s': '%s' is not %s",
                   def->name, shown, expected);
    }
  return ok;
}

BlockOptions *
block_options_parse (const BlockOptionDef *defs, const char *const *options, GError **error)
{
  g_autoptr (BlockOptions) parsed = g_new0 (BlockOptions, 1);

  parsed->values = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, option_value_free);
  for (; options && *options; options++)
    {
      const char *equals = strchr (*options, '=');
      size_t name_len = equals ? (size_t)(equals - *options) : strlen (*options);
      const BlockOptionDef *def = find_def (defs, *options, name_len);
      if (!def)
        {
          set_unknown_error (error, defs, *options, name_len);
          return NULL;
        }
      if (!equals && def->type != BLOCK_OPTION_BOOL)
        {
          g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT,
                       "option '%s' needs a value: %s=...", def->name, def->name);
          return NULL;
        }
      const char *text = equals ? equals + 1 : "on";
      int64_t number = 0;
      if (!parse_value (def, text, &number, error))
        return NULL;

      OptionValue *value = g_new0 (OptionValue, 1);
      value->text = g_strdup (text);
      value->number = number;
      g_hash_table_replace (parsed->values, (gpointer)def->name, value);
    }
  return g_steal_pointer (&parsed);
}

static const OptionValue *
get_value (const BlockOptions *options, const char *name)
{
  return options ? g_hash_table_lookup (options->values, name) : NULL;
}

const char *
block_options_get_string (const BlockOptions *options, const char *name, const char *fallback)
{
  const OptionValue *value = get_value (options, name);

  return value ? value->text : fallback;
}

bool
block_options_get_bool (const BlockOptions *options, const char *name, bool fallback)
{
  const OptionValue *value = get_value (options, name);

  return value ? value->number != 0 : fallback;
}

int64_t
block_options_get_size (const BlockOptions *options, const char *name, int64_t fallback)
{
  const OptionValue *value = get_value (options, name);

  return value ? value->number : fallback;
}

char **
bdrv_split_options (const char *text)
{
  GPtrArray *parts = g_ptr_array_new ();
  g_autoptr (GString) part = g_string_new (NULL);

  for (const char *p = text;; p++)
    {
      if (p[0] == ',' && p[1] == ',')
        g_string_append_c (part, *p++);
      else if (*p != ',' && *p != '\0')
        g_string_append_c (part, *p);
      else
        {
          g_ptr_array_add (parts, g_strdup (part->str));
          g_string_truncate (part, 0);
          if (*p == '\0')
            break;
        }
    }
  g_ptr_array_add (parts, NULL);
  return (char **)g_ptr_array_free (parts, FALSE);
}
