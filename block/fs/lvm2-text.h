/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The text in which LVM2 keeps its metadata, as a tree; see lvm2-text.c. */
#ifndef FS_LVM2_TEXT_H
#define FS_LVM2_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

G_BEGIN_DECLS

typedef enum
{
  LVM2_SECTION, /* its members are named */
  LVM2_ARRAY,   /* its members are not */
  LVM2_NUMBER,
  LVM2_STRING,
} Lvm2Kind;

typedef struct
{
  char *name; /* NULL in arrays */
  Lvm2Kind kind;
  int64_t number;
  char *string;
  GPtrArray *members; /* of Lvm2Node *; NULL of the last two kinds */
  GTree *by_name;     /* a section's members, once more */
} Lvm2Node;

/* All of @text, with zeros at its end at most: an unnamed section of the outermost ones.  NULL with @error (CORRUPT). */
Lvm2Node *lvm2_text_parse (const char *text, size_t bytes, GError **error);
void lvm2_node_free (Lvm2Node *node);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Lvm2Node, lvm2_node_free)

/* The member @name of a section, or NULL. */
const Lvm2Node *lvm2_node_get (const Lvm2Node *section, const char *name);
/* The same of one kind: false: it is not there, or is something else. */
bool lvm2_node_get_number (const Lvm2Node *section, const char *name, int64_t *number);
const char *lvm2_node_get_string (const Lvm2Node *section, const char *name);
const Lvm2Node *lvm2_node_get_section (const Lvm2Node *section, const char *name);
/* Whether member @name is an array of strings that are all in @known (NULL-terminated). */
bool lvm2_node_is_among (const Lvm2Node *section, const char *name, const char *const *known);

G_END_DECLS

#endif
