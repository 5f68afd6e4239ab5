/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sizes, JSON and safe text.
 *
 * The JSON writer is small on purpose: a JSON library brings GObject and GIO with it, which take longer to
 * load than an image takes to open.
 */
#include "output.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const units[] = { "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei" };

char *
format_size (int64_t bytes)
{
  double value = (double)bytes;
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < G_N_ELEMENTS (units); unit++)
    value /= 1024;
  return g_strdup_printf ("%.3g %sB", value, units[unit]);
}

char *
format_size_exact (double bytes)
{
  size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < G_N_ELEMENTS (units); unit++)
    bytes /= 1024;
  g_autofree char *number = g_strdup_printf ("%.3f", bytes);
  if (g_str_has_suffix (number, ".000"))
    number[strlen (number) - 4] = '\0';
  return unit == 0 ? g_strdup_printf ("%s bytes", number) : g_strdup_printf ("%s %sB", number, units[unit]);
}

/* The character at @text and its length in bytes; 0xfffd and 1 for a byte that starts none. */
static gunichar
next_character (const char *text, int *length)
{
  gunichar c = g_utf8_get_char_validated (text, -1);
  bool valid = c != (gunichar)-1 && c != (gunichar)-2;
  *length = valid ? g_unichar_to_utf8 (c, NULL) : 1;
  return valid ? c : 0xfffd;
}

/* Controls, and the marks that turn the direction of text round. */
static bool
is_unsafe (gunichar c)
{
  return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

char *
printable (const char *text)
{
  g_autoptr (GString) shown = g_string_new (NULL);
  int length;
  for (; *text != '\0'; text += length)
    {
      gunichar c = next_character (text, &length);
      if (c == 0xfffd && length == 1)
        g_string_append_printf (shown, "\\x%02x", (unsigned char)*text);
      else if (is_unsafe (c))
        g_string_append_printf (shown, c < 0x100 ? "\\x%02x" : "\\u%04x", c);
      else
        g_string_append_len (shown, text, length);
    }
  return g_string_free (g_steal_pointer (&shown), FALSE);
}

/* --- JSON ----------------------------------------------------------------------------------------------- */

/* Where JSON goes instead of standard output, or NULL. */
static GString *held_json;

G_GNUC_PRINTF (1, 2)
static void
emit (const char *format, ...)
{
  va_list args;
  va_start (args, format);
  if (held_json != NULL)
    g_string_append_vprintf (held_json, format, args);
  else
    vprintf (format, args);
  va_end (args);
}

void
json_hold (void)
{
  held_json = g_string_new (NULL);
}

char *
json_release (void)
{
  return g_string_free (g_steal_pointer (&held_json), FALSE);
}

static void
json_write_string (const char *text)
{
  int length;
  emit ("\"");
  for (; *text != '\0'; text += length)
    {
      gunichar c = next_character (text, &length);
      if (c == '"' || c == '\\')
        emit ("\\%c", (char)c);
      else if (c == '\n')
        emit ("\\n");
      else if (c == '\t')
        emit ("\\t");
      else if (is_unsafe (c) || (c == 0xfffd && length == 1))
        emit ("\\u%04x", c);
      else
        emit ("%.*s", length, text);
    }
  emit ("\"");
}

static void
json_start_value (JsonWriter *json, const char *key)
{
  if (json->depth > 0)
    {
      bool more = json->has_members[json->depth];
      if (json->one_line)
        emit ("%s", more ? ", " : "");
      else
        emit ("%s\n%*s", more ? "," : "", json->depth * 4, "");
      json->has_members[json->depth] = true;
    }
  if (key != NULL)
    {
      json_write_string (key);
      emit (": ");
    }
}

void
json_begin (JsonWriter *json, const char *key, char bracket)
{
  json_start_value (json, key);
  emit ("%c", bracket);
  g_assert (json->depth + 1 < JSON_MAX_DEPTH);
  json->has_members[++json->depth] = false;
}

void
json_end (JsonWriter *json, char bracket)
{
  bool any = json->has_members[json->depth--];
  if (any && !json->one_line)
    emit ("\n%*s", json->depth * 4, "");
  emit ("%c", bracket);
}

void
json_string (JsonWriter *json, const char *key, const char *value)
{
  json_start_value (json, key);
  json_write_string (value);
}

void
json_int (JsonWriter *json, const char *key, int64_t value)
{
  json_start_value (json, key);
  emit ("%" PRId64, value);
}

void
json_seconds (JsonWriter *json, const char *key, double value)
{
  char text[G_ASCII_DTOSTR_BUF_SIZE];
  if (!isfinite (value))
    {
      json_null (json, key);
      return;
    }
  json_start_value (json, key);
  emit ("%s", g_ascii_formatd (text, sizeof text, "%.3f", value));
}

void
json_null (JsonWriter *json, const char *key)
{
  json_start_value (json, key);
  emit ("null");
}

void
json_bool (JsonWriter *json, const char *key, bool value)
{
  json_start_value (json, key);
  emit ("%s", value ? "true" : "false");
}

void
json_finish (JsonWriter *json)
{
  g_assert (json->depth == 0);
  emit ("\n");
}

/* An integer of any type; false: not an integer. */
static bool
variant_integer (GVariant *value, bool *is_unsigned, uint64_t *number)
{
  *is_unsigned = false;
  switch (g_variant_classify (value))
    {
    case G_VARIANT_CLASS_BYTE:
      *number = g_variant_get_byte (value);
      return true;
    case G_VARIANT_CLASS_INT16:
      *number = (uint64_t)(int64_t)g_variant_get_int16 (value);
      return true;
    case G_VARIANT_CLASS_UINT16:
      *number = g_variant_get_uint16 (value);
      return true;
    case G_VARIANT_CLASS_INT32:
      *number = (uint64_t)(int64_t)g_variant_get_int32 (value);
      return true;
    case G_VARIANT_CLASS_UINT32:
      *number = g_variant_get_uint32 (value);
      return true;
    case G_VARIANT_CLASS_INT64:
      *number = (uint64_t)g_variant_get_int64 (value);
      return true;
    case G_VARIANT_CLASS_UINT64:
      *number = g_variant_get_uint64 (value);
      *is_unsigned = true;
      return true;
    default:
      return false;
    }
}

/* Calls @member for every key and value of an a{sv}. */
#define FOR_EACH_FACT(facts, key, value)                                                                     \
  GVariantIter iter_;                                                                                        \
  g_variant_iter_init (&iter_, facts);                                                                       \
  const char *key;                                                                                           \
  GVariant *value;                                                                                           \
  while (g_variant_iter_loop (&iter_, "{&sv}", &key, &value))

void
json_variant (JsonWriter *json, const char *key, GVariant *value)
{
  bool is_unsigned;
  uint64_t number;
  if (g_variant_is_of_type (value, G_VARIANT_TYPE_VARIANT))
    {
      g_autoptr (GVariant) inner = g_variant_get_variant (value);
      json_variant (json, key, inner);
    }
  else if (g_variant_is_of_type (value, G_VARIANT_TYPE_STRING))
    json_string (json, key, g_variant_get_string (value, NULL));
  else if (g_variant_is_of_type (value, G_VARIANT_TYPE_BOOLEAN))
    json_bool (json, key, g_variant_get_boolean (value));
  else if (variant_integer (value, &is_unsigned, &number))
    {
      json_start_value (json, key);
      emit (is_unsigned ? "%" PRIu64 : "%" PRId64, number);
    }
  else if (g_variant_is_of_type (value, G_VARIANT_TYPE_VARDICT))
    {
      json_begin (json, key, '{');
      FOR_EACH_FACT (value, name, member)
      json_variant (json, name, member);
      json_end (json, '}');
    }
  else if (g_variant_is_of_type (value, G_VARIANT_TYPE_ARRAY))
    {
      json_begin (json, key, '[');
      for (size_t i = 0; i < g_variant_n_children (value); i++)
        {
          g_autoptr (GVariant) child = g_variant_get_child_value (value, i);
          json_variant (json, NULL, child);
        }
      json_end (json, ']');
    }
  else
    {
      g_autofree char *text = g_variant_print (value, FALSE);
      json_string (json, key, text);
    }
}

/* --- facts for people ----------------------------------------------------------------------------------- */

static void
print_fact (GVariant *value, int indent)
{
  bool is_unsigned;
  uint64_t number;
  if (g_variant_is_of_type (value, G_VARIANT_TYPE_STRING))
    {
      g_autofree char *text = printable (g_variant_get_string (value, NULL));
      printf (" %s\n", text);
    }
  else if (variant_integer (value, &is_unsigned, &number))
    printf (is_unsigned ? " %" PRIu64 "\n" : " %" PRId64 "\n", number);
  else if (g_variant_is_of_type (value, G_VARIANT_TYPE_VARDICT))
    {
      putchar ('\n');
      print_facts (value, indent + 4);
    }
  else if (g_variant_is_of_type (value, G_VARIANT_TYPE_ARRAY))
    {
      putchar ('\n');
      for (size_t i = 0; i < g_variant_n_children (value); i++)
        {
          g_autoptr (GVariant) child = g_variant_get_child_value (value, i);
          g_autoptr (GVariant) inner =
              g_variant_is_of_type (child, G_VARIANT_TYPE_VARIANT) ? g_variant_get_variant (child) : NULL;
          printf ("%*s[%zu]:", indent + 4, "", i);
          print_fact (inner != NULL ? inner : child, indent + 4);
        }
    }
  else
    {
      g_autofree char *plain = g_variant_print (value, FALSE);
      g_autofree char *text = printable (plain);
      printf (" %s\n", text);
    }
}

void
print_facts (GVariant *facts, int indent)
{
  FOR_EACH_FACT (facts, key, value)
  {
    g_autofree char *words = printable (key);
    printf ("%*s%s:", indent, "", g_strdelimit (words, "-", ' '));
    print_fact (value, indent);
  }
}
