/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A VHDX that gets another parent, none, or another identity: what is refused, and the same node used afterwards. */
#include <errno.h>
#include <string.h>

#include "vhdx-mem.h"

/* Where create puts it, behind header section and log of a MiB each. */
#define METADATA (2 * MIB)

static BlockDriverState *coroutine_fn
co_open_above (MemFile *mem, BlockDriverState *parent)
{
  return co_open (mem, BDRV_O_RDWR, parent ? bdrv_ref (parent) : NULL);
}

/* A new image in @mem, opened. */
static BlockDriverState *coroutine_fn
co_new (MemFile *mem, int64_t bytes, const char *option, BlockDriverState *parent)
{
  mem_file_init (mem, 0);
  co_create (mem, bytes, option, parent);
  return co_open_above (mem, parent);
}

static void coroutine_fn
co_close (BlockDriverState *bs)
{
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
}

static bool coroutine_fn
co_change_parent (BlockDriverState *bs, BlockDriverState *parent, const char *path, GError **error)
{
  const BlockParentChange change = { parent, "/x.vhdx", path, NULL };

  return bs->drv->co_change_parent (bs, &change, error);
}

/* --- what is refused ------------------------------------------------------------------------------------- */

static void coroutine_fn
refused_before_anything_changes (void *opaque)
{
  g_autofree char *long_path = g_strnfill (40000, 'p');
  BlockDriverState *base, *other, *plain, *bs;
  MemFile base_mem, other_mem, plain_mem, mem;

  long_path[0] = '/';
  base = co_new (&base_mem, 2 * MIB, NULL, NULL);
  other = co_new (&other_mem, 2 * MIB, "logical_sector_size=4096", NULL);
  mem_file_init (&plain_mem, 2 * MIB);
  plain = co_node_on (bdrv_find_driver ("raw"), co_mem_open (&plain_mem, 0), 0);
  bs = co_new (&mem, 2 * MIB, NULL, base);

  const struct
  {
    BlockDriverState *bs, *parent;
    const char *path;
    int code;
    const char *part;
  } cases[] = {
    { bs, other, "/other.vhdx", VHDKIT_ERROR_UNSUPPORTED, "sectors" },
    { bs, plain, "/plain", VHDKIT_ERROR_UNSUPPORTED, "vhdx" },
    { bs, base, long_path, VHDKIT_ERROR_INVALID_ARGUMENT, "too long" },
    { bs, base, "/\xff.vhdx", VHDKIT_ERROR_INVALID_ARGUMENT, "UTF-8" },
    { base, bs, "/x.vhdx", VHDKIT_ERROR_UNSUPPORTED, "has no parent" },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree uint8_t *before = g_memdup2 (mem.data->data, mem.data->len);

      g_assert_false (co_change_parent (cases[i].bs, cases[i].parent, cases[i].path, &error));
      g_assert_error (error, VHDKIT_ERROR, cases[i].code);
      g_assert_nonnull (strstr (error->message, cases[i].part));
      g_assert_false (bdrv_is_poisoned (cases[i].bs));
      g_assert_cmpmem (mem.data->data, mem.data->len, before, mem.data->len);
    }
  /* None instead of none. */
  g_assert_true (co_change_parent (base, NULL, NULL, NULL));
  g_assert_true (co_change_parent (bs, base, "/elsewhere/base.vhdx", NULL));
  co_close (bs);
  co_close (plain);
  co_close (other);
  co_close (base);
  mem_file_clear (&mem);
  mem_file_clear (&plain_mem);
  mem_file_clear (&other_mem);
  mem_file_clear (&base_mem);
}

/* Paths that grow and shrink again and again do not use the region up. */
static void coroutine_fn
room_is_used_again (void *opaque)
{
  g_autofree char *name = g_strnfill (700, 'n');
  g_autofree char *long_path = g_strdup_printf ("/%s/base.vhdx", name);
  BlockDriverState *base, *bs;
  MemFile base_mem, mem;

  base = co_new (&base_mem, 2 * MIB, NULL, NULL);
  bs = co_new (&mem, 2 * MIB, NULL, base);
  for (int i = 0; i < 1000; i++)
    {
      g_autoptr (GError) error = NULL;

      co_change_parent (bs, base, i % 2 ? "/base.vhdx" : long_path, &error);
      g_assert_no_error (error);
    }
  co_close (bs);
  bs = co_open_above (&mem, base);
  co_close (bs);
  co_close (base);
  mem_file_clear (&mem);
  mem_file_clear (&base_mem);
}

/* --- without the parent ---------------------------------------------------------------------------------- */

/* The parent shows zeros as far as the disk reaches, and other data behind it. */
static void coroutine_fn
parent_is_not_asked_again (void *opaque)
{
  BlockDriverState *base, *bs, *file;
  MemFile base_mem, mem;
  int64_t pnum, map;
  int status;

  base = co_new (&base_mem, 8 * MIB, NULL, NULL);
  co_fill (base, 3 * MIB + 512, 4 * MIB, 0xBB);
  bs = co_new (&mem, 3 * MIB + 512, NULL, base);
  co_fill (bs, MIB + 512, 512, 0xA5);
  g_assert_true (co_change_parent (bs, NULL, NULL, NULL));
  g_assert_true (bs->backing == base);
  g_assert_true (bdrv_co_truncate (bs, 8 * MIB, NULL));
  co_fill (bs, 5 * MIB, 512, 0xA5);
  for (int life = 0; life < 2; life++)
    {
      co_assert_filled (bs, 0, MIB + 512, 0);
      co_assert_filled (bs, MIB + 512, 512, 0xA5);
      co_assert_filled (bs, MIB + 1024, 4 * MIB - 1024, 0);
      co_assert_filled (bs, 5 * MIB, 512, 0xA5);
      co_assert_filled (bs, 5 * MIB + 512, 3 * MIB - 512, 0);
      status = bdrv_co_block_status (bs, 6 * MIB, 2 * MIB, &pnum, &map, &file);
      g_assert_cmpint (status & BDRV_BLOCK_ALLOCATED, ==, life == 0 ? BDRV_BLOCK_ALLOCATED : 0);
      /* Its data is the same below, where nobody looks any more. */
      g_assert_cmpint (bs->drv->co_drop_block (bs, MIB, BLOCK_DROP_UNALLOCATED), ==, life == 0 ? -EINVAL : 0);
      if (life == 1)
        co_assert_filled (bs, MIB, MIB, 0);
      co_close (bs);
      bs = co_open_above (&mem, NULL);
    }
  co_close (bs);
  co_close (base);
  mem_file_clear (&mem);
  mem_file_clear (&base_mem);
}

/* A child that says it keeps its blocks allocated says nothing by that; a disk without a parent would be fixed. */
static void coroutine_fn
child_becomes_dynamic (void *opaque)
{
  const int64_t flags = METADATA + 64 * KIB + 4;
  BlockDriverState *base, *bs;
  MemFile base_mem, mem;

  base = co_new (&base_mem, 4 * MIB, NULL, NULL);
  co_close (co_new (&mem, 4 * MIB, NULL, base));
  g_assert_cmpint (mem.data->data[flags], ==, 2);
  mem.data->data[flags] |= 1;
  bs = co_open_above (&mem, base);
  g_assert_true (co_change_parent (bs, NULL, NULL, NULL));
  co_close (bs);
  g_assert_cmpint (mem.data->data[flags], ==, 0);
  bs = co_open_above (&mem, NULL);
  co_fill (bs, 0, MIB, 0xA5);
  co_close (bs);
  g_assert_cmpint (mem.data->len, ==, 5 * MIB);
  co_close (base);
  mem_file_clear (&mem);
  mem_file_clear (&base_mem);
}

/* --- identities ------------------------------------------------------------------------------------------ */

static void
assert_identity (BlockDriverState *bs, const uint8_t *expected, bool equal)
{
  uint8_t found[BLOCK_IDENTITY_SIZE];

  g_assert_true (bdrv_get_identity (bs, found));
  g_assert_true ((memcmp (found, expected, sizeof found) == 0) == equal);
}

static void coroutine_fn
identity_follows_content (void *opaque)
{
  uint8_t given[BLOCK_IDENTITY_SIZE] = { 1, 2, 3 }, own[BLOCK_IDENTITY_SIZE], next[BLOCK_IDENTITY_SIZE];
  BlockDriverState *bs;
  MemFile mem;

  bs = co_new (&mem, 4 * MIB, NULL, NULL);
  co_fill (bs, 0, MIB, 0xA5);
  g_assert_true (bdrv_get_identity (bs, own));
  g_assert_cmpint (bs->drv->co_take_identity (bs, given), ==, 0);
  assert_identity (bs, given, true);

  /* What changes no content keeps it. */
  const BlockMove move = { 0, 4 * MIB, 5 * MIB, MIB };
  g_assert_cmpint (bs->drv->co_relocate (bs, &move, 1), ==, 0);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  assert_identity (bs, given, true);
  co_close (bs);
  bs = co_open_above (&mem, NULL);
  assert_identity (bs, given, true);

  /* Content that changes gets a new one, also in the session that took it. */
  co_fill (bs, 0, 512, 0x5A);
  assert_identity (bs, given, false);
  g_assert_true (bdrv_get_identity (bs, own));
  g_assert_cmpint (bs->drv->co_take_identity (bs, given), ==, 0);
  g_assert_true (bdrv_get_next_identity (bs, next));
  co_fill (bs, 0, 512, 0xA5);
  assert_identity (bs, given, false);
  assert_identity (bs, own, false);
  assert_identity (bs, next, true);
  co_close (bs);
  bs = co_open_above (&mem, NULL);
  assert_identity (bs, next, true);
  co_close (bs);
  mem_file_clear (&mem);
}

static void coroutine_fn
accepted_identities (void *opaque)
{
  uint8_t given[BLOCK_IDENTITY_SIZE] = { 1, 2, 3 }, own[BLOCK_IDENTITY_SIZE];
  g_autoptr (GError) error = NULL;
  BlockDriverState *base, *bs;
  MemFile base_mem, mem;

  base = co_new (&base_mem, 4 * MIB, NULL, NULL);
  g_assert_false (base->drv->co_accept_identity (base, given, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT);
  bs = co_new (&mem, 4 * MIB, NULL, base);
  g_assert_true (bdrv_get_identity (base, own));
  g_assert_true (bs->drv->co_accept_identity (bs, given, NULL));
  for (int life = 0; life < 2; life++)
    {
      g_auto (BlockParentLink) link = { 0 };

      g_assert_true (bs->drv->get_parent_link (bs, &link));
      g_assert_cmpint (link.identities, ==, 2);
      g_assert_cmpmem (link.identity[0], sizeof own, own, sizeof own);
      g_assert_cmpmem (link.identity[1], sizeof given, given, sizeof given);
      co_close (bs);
      bs = co_open_above (&mem, base);
    }
  co_close (bs);
  co_close (base);
  mem_file_clear (&mem);
  mem_file_clear (&base_mem);
}

/* What a guest can see of the disk beside its content is content as well. */
static void coroutine_fn
properties_are_content (void *opaque)
{
  uint8_t own[BLOCK_IDENTITY_SIZE], next[BLOCK_IDENTITY_SIZE];
  BlockDriverState *bs, *source;
  MemFile mem, source_mem;
  unsigned writes;

  bs = co_new (&mem, 2 * MIB, "physical_sector_size=512", NULL);
  source = co_new (&source_mem, 2 * MIB, "physical_sector_size=4096", NULL);
  g_assert_true (bdrv_get_identity (bs, own));
  g_assert_true (bs->drv->co_copy_disk_properties (bs, source, NULL));
  assert_identity (bs, own, false);
  g_assert_true (bdrv_get_identity (bs, next));
  co_close (bs);

  bs = co_open_above (&mem, NULL);
  writes = mem.count[MEM_WRITE];
  g_assert_true (bs->drv->co_copy_disk_properties (bs, source, NULL));
  g_assert_cmpuint (mem.count[MEM_WRITE], ==, writes);
  assert_identity (bs, next, true);
  co_close (bs);
  co_close (source);
  mem_file_clear (&mem);
  mem_file_clear (&source_mem);
}

int
main (int argc, char **argv)
{
  static const TestCase tests[] = {
    { "/vhdx-relink/refused-before-anything-changes", refused_before_anything_changes },
    { "/vhdx-relink/room-is-used-again", room_is_used_again },
    { "/vhdx-relink/parent-is-not-asked-again", parent_is_not_asked_again },
    { "/vhdx-relink/child-becomes-dynamic", child_becomes_dynamic },
    { "/vhdx-relink/identity-follows-content", identity_follows_content },
    { "/vhdx-relink/accepted-identities", accepted_identities },
    { "/vhdx-relink/properties-are-content", properties_are_content },
  };

  return test_run_cases (argc, argv, tests, G_N_ELEMENTS (tests));
}
