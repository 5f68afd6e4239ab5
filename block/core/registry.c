/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The drivers: those built in (a table made by meson) and those registered since.
 *
 * The only state of the process.  A list that was handed out stays as it is for ever, so readers need no
 * lock: registering makes a new list.
 */
#include "core-int.h"

#include <string.h>

extern const BlockDriver *const bdrv_builtin_drivers[];

/* What a BlockDriver had when its ABI number was given out. */
#define MIN_STRUCT_SIZE (G_STRUCT_OFFSET (BlockDriver, get_mtime) + sizeof (void *))

static GMutex registry_lock; /* of registering */
static const BlockDriver *const *registry_list;
static GPtrArray *registry_memory; /* lists and copies of drivers, reachable for leak checkers */

static bool
driver_has_name (const BlockDriver *drv, const char *name)
{
  if (strcmp (drv->format_name, name) == 0)
    return true;
  return drv->aliases && g_strv_contains (drv->aliases, name);
}

static const BlockDriver *
find_in_list (const BlockDriver *const *list, const char *name)
{
  for (; *list; list++)
    if (driver_has_name (*list, name))
      return *list;
  return NULL;
}

static const BlockDriver *
find_taken_name (const BlockDriver *const *list, const BlockDriver *drv, const char **name)
{
  const BlockDriver *other = find_in_list (list, drv->format_name);

  *name = drv->format_name;
  for (const char *const *alias = drv->aliases; !other && alias && *alias; alias++)
    {
      *name = *alias;
      other = find_in_list (list, *alias);
    }
  return other;
}

/* The memory an older driver does not have reads as NULL members. */
static const BlockDriver *
driver_in_full_size (const BlockDriver *drv)
{
  if (drv->struct_size >= sizeof (BlockDriver))
    return drv;

  BlockDriver *copy = g_new0 (BlockDriver, 1);
  memcpy (copy, drv, drv->struct_size);
  g_ptr_array_add (registry_memory, copy);
  return copy;
}

static const BlockDriver *const *
list_with (const BlockDriver *const *list, const BlockDriver *drv)
{
  size_t n = 0;

  while (list[n])
    n++;
  const BlockDriver **longer = g_new0 (const BlockDriver *, n + 2);
  if (n > 0)
    memcpy (longer, list, n * sizeof *list);
  longer[n] = drv;
  g_ptr_array_add (registry_memory, longer);
  return longer;
}

static bool
check_driver (const BlockDriver *drv, GError **error)
{
  if (drv->abi != BLOCK_DRIVER_ABI || drv->struct_size < MIN_STRUCT_SIZE)
    {
      g_set_error (
          error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED,
          "driver was made for ABI %u with a struct of %zu bytes, expected ABI %d and at least %zu bytes",
          drv->abi, drv->struct_size, BLOCK_DRIVER_ABI, (size_t)MIN_STRUCT_SIZE);
      return false;
    }
  bool reads = drv->co_preadv || drv->kind == BLOCK_DRIVER_FILTER;
  if (!drv->format_name || drv->format_name[0] == '\0' || drv->kind > BLOCK_DRIVER_FILTER || !drv->co_open
      || !reads)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT,
                   "driver %s has no name, an unknown kind, or no way to open or read",
                   drv->format_name ? drv->format_name : "(none)");
      return false;
    }
  return true;
}

static bool
register_locked (const BlockDriver *drv, GError **error)
{
  const char *name;

  if (!check_driver (drv, error))
    return false;
  if (find_taken_name (registry_list, drv, &name))
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT, "driver name %s is taken", name);
      return false;
    }
  g_atomic_pointer_set (&registry_list, list_with (registry_list, driver_in_full_size (drv)));
  return true;
}

static void
ensure_registry (void)
{
  static gsize initialised;

  if (!g_once_init_enter (&initialised))
    return;

  static const BlockDriver *const none[] = { NULL };
  registry_memory = g_ptr_array_new ();
  registry_list = none;
  for (const BlockDriver *const *drv = bdrv_builtin_drivers; *drv; drv++)
    {
      g_autoptr (GError) error = NULL;
      bool ok = register_locked (*drv, &error);
      g_assert (ok); /* the table is ours */
    }
  g_once_init_leave (&initialised, 1);
}

bool
bdrv_register (const BlockDriver *drv, GError **error)
{
  ensure_registry ();
  g_mutex_lock (&registry_lock);
  bool ok = register_locked (drv, error);
  g_mutex_unlock (&registry_lock);
  return ok;
}

const BlockDriver *const *
bdrv_list_drivers (void)
{
  ensure_registry ();
  return g_atomic_pointer_get (&registry_list);
}

const BlockDriver *
bdrv_find_driver (const char *name)
{
  return find_in_list (bdrv_list_drivers (), name);
}
