/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The text in which LVM2 keeps its metadata:
 *
 *     section { member … }     name = 17     name = "text"     name = [ "a", 1, … ]     # to the end of the line
 *
 * What LVM2 writes is read, and nothing more: no fractions, no arrays in arrays, no name twice in a section.  Depth,
 * number of nodes and length of names are bounded.  Names are looked up in a tree, not in a hash table: they are hostile,
 * and could all have the same hash.
 */
#include "lvm2-text.h"

#include "refuse.h"

#include <string.h>

#define MAX_DEPTH  8
#define MAX_NODES  (128 * 1024)
#define MAX_DIGITS 18
#define MAX_NAME   127 /* of LVM2 too */

typedef struct
{
  const char *at, *end;
  unsigned nodes, line;
  GError **error;
} Parser;

void
lvm2_node_free (Lvm2Node *node)
{
  if (node == NULL)
    return;
  g_clear_pointer (&node->by_name, g_tree_unref);
  g_clear_pointer (&node->members, g_ptr_array_unref);
  g_free (node->name);
  g_free (node->string);
  g_free (node);
}

static void
free_member (void *data)
{
  lvm2_node_free (data);
}

static bool
fail (Parser *parser, const char *what)
{
  return fs_corrupt (parser->error, "metadata text, line %u: %s", parser->line, what);
}

static void
skip_blanks (Parser *parser)
{
  bool comment = false;

  for (; parser->at < parser->end; parser->at++)
    {
      char c = *parser->at;

      if (c == '\n')
        {
          parser->line++;
          comment = false;
        }
      else if (c == '#')
        comment = true;
      else if (!comment && c != ' ' && c != '\t' && c != '\r')
        return;
    }
}

/* Whether @c comes next; it is taken then. */
static bool
take (Parser *parser, char c)
{
  skip_blanks (parser);
  if (parser->at == parser->end || *parser->at != c)
    return false;
  parser->at++;
  return true;
}

static bool
is_name_char (char c)
{
  return g_ascii_isalnum (c) || (c != '\0' && strchr ("_-+.", c) != NULL);
}

/* NULL: there is none, or it is too long. */
static char *
take_name (Parser *parser)
{
  skip_blanks (parser);

  const char *start = parser->at;

  while (parser->at < parser->end && is_name_char (*parser->at))
    parser->at++;
  if (parser->at == start || parser->at - start > MAX_NAME)
    {
      fail (parser, parser->at == start ? "expected a name" : "a name that is too long");
      return NULL;
    }
  return g_strndup (start, (gsize)(parser->at - start));
}

static bool
take_string (Parser *parser, Lvm2Node *node)
{
  g_autoptr (GString) text = g_string_new (NULL);

  for (; parser->at < parser->end && *parser->at != '"'; parser->at++)
    {
      if (*parser->at == '\\')
        parser->at++;
      if (parser->at == parser->end || *parser->at == '\0' || *parser->at == '\n')
        return fail (parser, "a string without an end");
      g_string_append_c (text, *parser->at);
    }
  if (parser->at >= parser->end)
    return fail (parser, "a string without an end");
  parser->at++;
  node->kind = LVM2_STRING;
  node->string = g_strdup (text->str);
  return true;
}

static bool
take_number (Parser *parser, Lvm2Node *node)
{
  bool negative = take (parser, '-');
  int digits = 0;

  for (; parser->at < parser->end && g_ascii_isdigit (*parser->at); parser->at++)
    {
      if (++digits > MAX_DIGITS)
        return fail (parser, "a number that is too large");
      node->number = node->number * 10 + (*parser->at - '0');
    }
  if (digits == 0 || (parser->at < parser->end && is_name_char (*parser->at)))
    return fail (parser, "neither a number nor a string");
  node->number = negative ? -node->number : node->number;
  node->kind = LVM2_NUMBER;
  return true;
}

static Lvm2Node *
new_member (Parser *parser, Lvm2Node *parent)
{
  if (++parser->nodes > MAX_NODES)
    {
      fail (parser, "too much of it");
      return NULL;
    }

  Lvm2Node *node = g_new0 (Lvm2Node, 1);

  g_ptr_array_add (parent->members, node);
  return node;
}

static bool
take_scalar (Parser *parser, Lvm2Node *node)
{
  return take (parser, '"') ? take_string (parser, node) : take_number (parser, node);
}

static bool
take_array (Parser *parser, Lvm2Node *array)
{
  array->kind = LVM2_ARRAY;
  array->members = g_ptr_array_new_with_free_func (free_member);
  if (take (parser, ']'))
    return true;
  do
    {
      Lvm2Node *node = new_member (parser, array);

      if (node == NULL || !take_scalar (parser, node))
        return false;
    }
  while (take (parser, ','));
  return take (parser, ']') || fail (parser, "an array without an end");
}

static bool take_members (Parser *parser, Lvm2Node *section, int depth);

static bool
take_member (Parser *parser, Lvm2Node *section, int depth)
{
  g_autofree char *name = take_name (parser);

  if (name == NULL)
    return false;
  Lvm2Node *node = new_member (parser, section);
  if (node == NULL)
    return false;
  node->name = g_steal_pointer (&name);
  if (g_tree_lookup (section->by_name, node->name) != NULL)
    return fail (parser, "a name for the second time");
  g_tree_insert (section->by_name, node->name, node);
  if (take (parser, '{'))
    return depth < MAX_DEPTH ? take_members (parser, node, depth + 1) : fail (parser, "sections too deep");
  if (!take (parser, '='))
    return fail (parser, "expected a section or a value");
  return take (parser, '[') ? take_array (parser, node) : take_scalar (parser, node);
}

static int
compare_names (const void *a, const void *b)
{
  return strcmp (a, b);
}

/* Up to the bracket that ends it, or of the outermost to the end. */
static bool
take_members (Parser *parser, Lvm2Node *section, int depth)
{
  section->kind = LVM2_SECTION;
  section->by_name = g_tree_new (compare_names);
  section->members = g_ptr_array_new_with_free_func (free_member);
  for (;;)
    {
      if (depth > 0 && take (parser, '}'))
        return true;
      skip_blanks (parser);
      if (parser->at == parser->end)
        return depth == 0 || fail (parser, "a section without an end");
      if (!take_member (parser, section, depth))
        return false;
    }
}

Lvm2Node *
lvm2_text_parse (const char *text, size_t bytes, GError **error)
{
  g_autoptr (Lvm2Node) root = g_new0 (Lvm2Node, 1);

  while (bytes > 0 && text[bytes - 1] == '\0')
    bytes--;

  Parser parser = { .at = text, .end = text + bytes, .line = 1, .error = error };

  return take_members (&parser, root, 0) ? g_steal_pointer (&root) : NULL;
}

/* --- looking into it ----------------------------------------------------------------------------------------- */

const Lvm2Node *
lvm2_node_get (const Lvm2Node *section, const char *name)
{
  return g_tree_lookup (section->by_name, name);
}

static const Lvm2Node *
get_of_kind (const Lvm2Node *section, const char *name, Lvm2Kind kind)
{
  const Lvm2Node *node = lvm2_node_get (section, name);

  return node != NULL && node->kind == kind ? node : NULL;
}

bool
lvm2_node_get_number (const Lvm2Node *section, const char *name, int64_t *number)
{
  const Lvm2Node *node = get_of_kind (section, name, LVM2_NUMBER);

  *number = node != NULL ? node->number : 0;
  return node != NULL;
}

const char *
lvm2_node_get_string (const Lvm2Node *section, const char *name)
{
  const Lvm2Node *node = get_of_kind (section, name, LVM2_STRING);

  return node != NULL ? node->string : NULL;
}

const Lvm2Node *
lvm2_node_get_section (const Lvm2Node *section, const char *name)
{
  return get_of_kind (section, name, LVM2_SECTION);
}

bool
lvm2_node_is_among (const Lvm2Node *section, const char *name, const char *const *known)
{
  const Lvm2Node *array = get_of_kind (section, name, LVM2_ARRAY);

  for (guint i = 0; array != NULL && i < array->members->len; i++)
    {
      const Lvm2Node *node = array->members->pdata[i];

      if (node->kind != LVM2_STRING || !g_strv_contains (known, node->string))
        return false;
    }
  return array != NULL;
}
