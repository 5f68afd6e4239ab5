/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crashes and faults while an image gets another parent, or none, or the place of its child, and while a writable open
 * puts right what such a crash has left.
 *
 * The new parent shows what the old one does wherever the image itself does not decide, and something else where it
 * does: whatever link is found, the image reads the same, and neither link may be found with content that belongs to
 * the other.  A crash leaves the old link or the new one, and when the operation has returned, the new one; the same
 * asked for again finishes.
 *
 * Taking a child's place: "base" gets what "middle", its child, shows, and then its identity, so that "leaf" may have
 * the one or the other as its parent.  At every instant leaf is found to be over middle over base; and once base has
 * the identity, it has the content too.
 *
 * VHDKIT_SEED repeats a run, VHDKIT_ITERATIONS runs of each case; VHDKIT_CRASH_CUTS crashes of each VHDX (long.sh).
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "../../block/api.h"
#include "../../block/drivers/test/blkdebug.h"
#include "../../block/drivers/test/passthrough.h"
#include "images.h"
#include "simdisk.h"

#define KIB INT64_C (1024)
#define MIB (1024 * KIB)

typedef enum
{
  TO_NEW,
  TO_NONE,
  TO_OLD,      /* nothing is changed by hand: just opened for writing */
  TO_IDENTITY, /* base gets that of middle */
} Target;

typedef enum
{
  BATMAP = 1 << 0,
  RESERVE = 1 << 1,       /* zeros before the footer at the end */
  BAD_COPY = 1 << 2,      /* of the footer, at offset 0 */
  HEADER_BEHIND = 1 << 3, /* left by a crash */
  OTHER_PLACE = 1 << 4,   /* a second place is named, where the parent is not */
  LONG_PLACE = 1 << 5,    /* … by a text that does not fit where texts usually are */
  CLEAR_BITS = 1 << 6,    /* of a dynamic image, over sectors of zeros */
  DEVICE = 1 << 7,        /* the file cannot grow */
  PARTIAL = 1 << 8,       /* blocks with all bits, and with none in space full of rubbish */
  NO_FAULTS = 1 << 9,     /* faults of another case are like it */
} Flags;

typedef struct
{
  const char *name;
  ImageKind kind;
  int64_t bytes, block_size;
  int64_t old_bytes; /* of the present parent; 0: it has none */
  Target to;
  int flags;
  int writes; /* requests of a guest, after the change */
} Case;

static const Case cases[] = {
  { "another-parent", IMAGE_VHD, 256 * KIB, 8 * KIB, 256 * KIB, TO_NEW, 0, 6 },
  { "another-parent-of-larger", IMAGE_VHD, 256 * KIB + 512, 16 * KIB, 128 * KIB, TO_NEW, 0, 0 },
  { "another-parent-other-place", IMAGE_VHD, 256 * KIB, 8 * KIB, 256 * KIB, TO_NEW, OTHER_PLACE, 2 },
  { "another-parent-long-place", IMAGE_VHD, 256 * KIB, 8 * KIB, 256 * KIB, TO_NEW, OTHER_PLACE | LONG_PLACE,
    4 },
  { "another-parent-batmap", IMAGE_VHD, 256 * KIB, 4 * KIB, 256 * KIB, TO_NEW, BATMAP, 4 },
  { "another-parent-bad-copy", IMAGE_VHD, 256 * KIB, 8 * KIB, 256 * KIB, TO_NEW, BAD_COPY | RESERVE, 0 },
  { "another-parent-on-device", IMAGE_VHD, 256 * KIB, 8 * KIB, 256 * KIB, TO_NEW, RESERVE | DEVICE, 2 },
  { "first-parent", IMAGE_VHD, 256 * KIB - 512, 8 * KIB, 0, TO_NEW, CLEAR_BITS, 4 },
  { "first-parent-batmap", IMAGE_VHD, 256 * KIB, 8 * KIB, 0, TO_NEW, BATMAP, 0 },
  { "no-parent", IMAGE_VHD, 256 * KIB - 512, 8 * KIB, 256 * KIB, TO_NONE, 0, 6 },
  { "no-parent-batmap", IMAGE_VHD, 256 * KIB, 4 * KIB, 300 * KIB, TO_NONE, BATMAP, 4 },
  { "no-parent-header-behind", IMAGE_VHD, 256 * KIB, 8 * KIB, 256 * KIB, TO_NONE, HEADER_BEHIND, 0 },
  { "no-parent-on-device", IMAGE_VHD, 256 * KIB, 8 * KIB, 256 * KIB, TO_NONE, RESERVE | DEVICE, 0 },
  { "open-header-behind", IMAGE_VHD, 256 * KIB, 8 * KIB, 256 * KIB, TO_OLD, HEADER_BEHIND, 4 },
  { "open-header-behind-dynamic", IMAGE_VHD, 256 * KIB, 8 * KIB, 0, TO_OLD, HEADER_BEHIND, 4 },

  { "another-parent", IMAGE_VHDX, 4 * MIB, MIB, 4 * MIB, TO_NEW, NO_FAULTS, 6 },
  { "another-parent-of-larger", IMAGE_VHDX, 4 * MIB + 512, 2 * MIB, 2 * MIB, TO_NEW, PARTIAL | NO_FAULTS, 0 },
  { "another-parent-other-place", IMAGE_VHDX_4K, 4 * MIB, MIB, 4 * MIB, TO_NEW, OTHER_PLACE | NO_FAULTS, 2 },
  { "another-parent-long-place", IMAGE_VHDX, 3 * MIB, MIB, 4 * MIB, TO_NEW, OTHER_PLACE | LONG_PLACE, 4 },
  { "no-parent", IMAGE_VHDX, 4 * MIB, MIB, 4 * MIB, TO_NONE, NO_FAULTS, 6 },
  { "no-parent-of-larger", IMAGE_VHDX, 8 * MIB - 1536, MIB, 3 * MIB, TO_NONE, PARTIAL, 4 },
  { "no-parent-of-smaller", IMAGE_VHDX, 3 * MIB + 512, 2 * MIB, 6 * MIB, TO_NONE, PARTIAL | NO_FAULTS, 4 },
  { "no-parent-4k", IMAGE_VHDX_4K, 4 * MIB + 4096, 2 * MIB, 5 * MIB, TO_NONE, PARTIAL, 4 },
  { "no-parent-two-chunks", IMAGE_VHDX, 4097 * MIB, MIB, 4098 * MIB, TO_NONE, NO_FAULTS, 2 },
  { "identity-of-child", IMAGE_VHDX, 3 * MIB, MIB, 3 * MIB, TO_IDENTITY, 0, 0 },
  { "identity-of-child-4k", IMAGE_VHDX_4K, 3 * MIB, MIB, 3 * MIB, TO_IDENTITY, NO_FAULTS, 0 },
};

typedef struct
{
  TestDir dir;
  GRand *rand;
  const Case *c;
  CrashTrace *trace;
  Guest *guest;
  GuestValues *values; /* what the leaf showed */
  int64_t changed_at;  /* position in the log at which the change had returned */
  int told, survived;  /* runs in which a fault was reported, and was overcome */
} Run;

static void
run_clear (Run *run)
{
  crash_trace_free (run->trace);
  guest_free (run->guest);
  guest_values_free (run->values);
  g_rand_free (run->rand);
  test_dir_clear (&run->dir);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Run, run_clear)

static bool
is_vhd (const Case *c)
{
  return strcmp (image_kind_format (c->kind), "vhd") == 0;
}

/* Requests stay near the start and the end of a disk that is large. */
static int64_t
ends_of (const Case *c)
{
  return c->bytes > 64 * MIB ? 3 * MIB : 0;
}

/* --- a file that cannot grow ------------------------------------------------------------------------------ */

static bool coroutine_fn
device_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  passthrough_refresh (bs);
  bs->fixed_length = true;
  return true;
}

static const BlockDriver device_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FILTER,
  .format_name = "device",
  .long_name = "File that cannot grow, for tests",
  .co_open = device_co_open,
  .co_reopen_rw = passthrough_co_reopen_rw,
  .get_host_path = passthrough_get_host_path,
};

/* Adds it to @filters, which are taken. */
static char **
add_device (const Case *c, char **filters)
{
  guint n = g_strv_length (filters);

  if (!(c->flags & DEVICE))
    return filters;
  filters = g_renew (char *, filters, n + 2);
  filters[n] = g_strdup ("device");
  filters[n + 1] = NULL;
  return filters;
}

/* --- the files -------------------------------------------------------------------------------------------- */

/* Writes the sectors that are not zeros. */
static void
write_values (const TestDir *dir, const char *name, const GuestValues *values)
{
  g_autofree char *why = NULL;
  VhdkitImage *image = image_open (dir, name, VHDKIT_OPEN_RDWR, NULL, &why);
  int64_t sectors = guest_values_size (values) / GUEST_SECTOR;
  uint8_t buffer[GUEST_SECTOR];

  if (image == NULL)
    g_error ("%s", why);
  for (int64_t sector = 0; sector < sectors; sector++)
    {
      uint32_t value = guest_values_get (values, sector);

      guest_fill (buffer, sector, value);
      if (value != 0 && vhdkit_image_pwrite (image, buffer, sector * GUEST_SECTOR, GUEST_SECTOR) < 0)
        g_error ("%s: cannot write", name);
    }
  if (!image_close (image, &why))
    g_error ("%s", why);
}

/* What a new parent of the leaf may show: the same as the leaf where another layer decides, rubbish where the leaf
 * does. */
static GuestValues *
values_of_parent (Run *run)
{
  GuestValues *values = guest_values_new (guest_values_size (run->values));
  g_autofree char *why = NULL;
  VhdkitImage *image = image_open (&run->dir, "leaf", 0, NULL, &why);
  VhdkitExtent extent;

  if (image == NULL)
    g_error ("%s", why);
  for (int64_t at = 0, bytes = guest_values_size (values); at < bytes; at += extent.bytes)
    {
      if (vhdkit_image_get_extent (image, at, bytes - at, &extent) < 0)
        g_error ("cannot get the status");
      for (int64_t sector = at / GUEST_SECTOR; sector < (at + extent.bytes) / GUEST_SECTOR; sector++)
        guest_values_set (values, sector,
                          extent.depth == 0 && (is_vhd (run->c) ? extent.has_file_offset : extent.present)
                              ? 777
                              : guest_values_get (run->values, sector));
    }
  if (!image_close (image, &why))
    g_error ("%s", why);
  return values;
}

static void
spoil_leaf (Run *run)
{
  int flags = run->c->flags;

  if (is_vhd (run->c) && run->c->old_bytes)
    image_add_rubbish_below_bits (&run->dir, "leaf");
  if (flags & CLEAR_BITS)
    image_clear_bits (&run->dir, "leaf");
  if (flags & HEADER_BEHIND)
    image_leave_header_behind (&run->dir, "leaf");
  if (flags & RESERVE)
    image_leave_reserve (&run->dir, "leaf", 64 * KIB);
  if (flags & BAD_COPY)
    image_damage_copy (&run->dir, "leaf");
  if (flags & PARTIAL)
    image_add_partial (&run->dir, "leaf", run->rand);
}

/* leaf over middle over base. */
static void
make_chain (Run *run)
{
  const Case *c = run->c;

  image_make (&run->dir, "base", c->kind, c->old_bytes, 2 * MIB, NULL);
  image_populate (&run->dir, "base", run->rand, 20, MIB, 0);
  image_make (&run->dir, "middle", c->kind, c->bytes, c->block_size, "base");
  image_populate (&run->dir, "middle", run->rand, 10, c->block_size, 0);
  image_make (&run->dir, "leaf", c->kind, c->bytes, c->block_size, "middle");
  image_populate (&run->dir, "leaf", run->rand, 5, c->block_size, 0);
  run->values = image_read (&run->dir, "leaf");
}

static void
make_files (Run *run)
{
  const Case *c = run->c;
  g_autoptr (GuestValues) parent = NULL;

  if (c->to == TO_IDENTITY)
    {
      make_chain (run);
      return;
    }
  if (c->old_bytes)
    {
      image_make (&run->dir, "old", c->kind, c->old_bytes, 2 * c->block_size, NULL);
      image_populate (&run->dir, "old", run->rand, 40, c->block_size, ends_of (c));
    }
  image_make (&run->dir, "leaf", c->kind, c->bytes, c->block_size, c->old_bytes ? "old" : NULL);
  if (c->flags & BATMAP)
    image_add_batmap (&run->dir, "leaf");
  image_populate (&run->dir, "leaf", run->rand, 5, c->block_size, ends_of (c));
  run->values = image_read (&run->dir, "leaf");
  if (c->to == TO_NEW)
    {
      parent = values_of_parent (run);
      image_make (&run->dir, "new", c->kind, c->bytes, c->block_size, NULL);
      write_values (&run->dir, "new", parent);
    }
  if (c->to == TO_NONE)
    write_values (&run->dir, "leaf", run->values);
  spoil_leaf (run);
}

/* --- the change ------------------------------------------------------------------------------------------- */

typedef struct
{
  BlockDriverState *bs;
  Target to;
  BlockParentChange change;
  bool ok;
  GError *error;
} Relink;

static int coroutine_fn
copy_all (BlockDriverState *from, BlockDriverState *to)
{
  const int64_t piece = 256 << 10;
  g_autofree uint8_t *buffer = g_malloc (piece);
  int ret = 0;

  for (int64_t offset = 0; offset < from->bytes && ret == 0; offset += piece)
    {
      int64_t n = MIN (piece, from->bytes - offset);

      ret = bdrv_co_pread (from, offset, n, buffer);
      if (ret == 0)
        ret = bdrv_co_pwrite (to, offset, n, buffer, 0);
    }
  return ret;
}

/* @middle: over base.  The order is that of a merge whose target gets the place of its child.  Nothing is flushed:
 * taking the identity must do it. */
static bool coroutine_fn
take_place (BlockDriverState *middle, GError **error)
{
  BlockDriverState *base = middle->backing;
  uint8_t identity[BLOCK_IDENTITY_SIZE];
  int ret;

  if (!bdrv_get_identity (middle, identity) || !bdrv_co_reopen_rw (middle, error)
      || !bdrv_co_reopen_rw (base, error) || !middle->drv->co_parent_changed (middle, base, true, error))
    return false;
  ret = copy_all (middle, base);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, base, ret, "cannot copy");
      return false;
    }
  if (!middle->drv->co_accept_identity (middle, identity, error))
    return false;
  ret = base->drv->co_take_identity (base, identity);
  if (ret < 0)
    bdrv_set_error_errno (error, base, ret, "cannot write the headers");
  return ret == 0;
}

static void coroutine_fn
relink_entry (void *opaque)
{
  Relink *relink = opaque;
  BlockDriverState *bs = relink->bs;

  if (relink->to == TO_IDENTITY)
    relink->ok = take_place (bs->backing, &relink->error);
  else
    relink->ok = bs->drv->co_change_parent (bs, &relink->change, &relink->error);
}

/* NULL, or why it failed. */
static char *
relink_image (Run *run, VhdkitImage *image)
{
  const Case *c = run->c;
  g_autofree char *leaf = test_path (&run->dir, "leaf"), *path = test_path (&run->dir, "new");
  g_autofree char *name = g_strnfill (250, 'x');
  g_autofree char *other = c->flags & LONG_PLACE
                               ? g_strdup_printf ("/%s/%s/%s/%s/%s/new", name, name, name, name, name)
                               : g_build_filename (run->dir.dir, "nowhere", "new", NULL);
  Relink relink = { .bs = image->bs, .to = c->to, .change = { .child_path = leaf } };
  VhdkitImage *parent = NULL;
  char *why = NULL;

  if (c->to == TO_OLD)
    return NULL;
  if (c->to == TO_NEW)
    {
      parent = image_open (&run->dir, "new", 0, NULL, &why);
      if (parent == NULL)
        return why;
      relink.change.parent = parent->bs;
      relink.change.parent_path = path;
      if (c->flags & OTHER_PLACE)
        relink.change.other_path = other;
    }
  api_run_sync (run->dir.context, relink_entry, &relink);
  g_assert_true (relink.ok == (relink.error == NULL));
  if (relink.error)
    why = g_strdup (relink.error->message);
  g_clear_error (&relink.error);
  if (parent)
    image_close (parent, why ? NULL : &why);
  return why;
}

static VhdkitImage *
open_to_change (const Run *run, char **filters, char **why)
{
  return image_open (&run->dir, "leaf", run->c->to == TO_IDENTITY ? 0 : VHDKIT_OPEN_RDWR, filters, why);
}

/* NULL, or what is not so: the leaf has the parent it is to have. */
static char *
look_at_parent (Run *run)
{
  static const char *const wanted[] = {
    [TO_NEW] = "new", [TO_NONE] = NULL, [TO_OLD] = "old", [TO_IDENTITY] = "middle"
  };
  const char *name = run->c->to == TO_OLD && !run->c->old_bytes ? NULL : wanted[run->c->to];
  VhdkitLayerInfo info = { 0 };
  char *why = NULL;
  VhdkitImage *image = image_open (&run->dir, "leaf", 0, NULL, &why);
  g_autofree char *found = NULL;

  if (image == NULL)
    return why;
  if (!vhdkit_image_get_layer_info (image, 0, &info, NULL))
    g_error ("no information");
  found = info.parent_filename ? g_path_get_basename (info.parent_filename) : NULL;
  if (g_strcmp0 (found, name) != 0)
    why = g_strdup_printf ("the parent is %s, not %s", found ? found : "none", name ? name : "none");
  else if (name && is_vhd (run->c) && !g_str_has_suffix (info.parent_name, name))
    why = g_strdup_printf ("the first name of the parent is %s, not that of %s", info.parent_name, name);
  vhdkit_layer_info_clear (&info);
  image_close (image, why ? NULL : &why);
  return why;
}

/* NULL, or how much a writable open finds that nobody uses. */
static char *
look_for_unused (Run *run)
{
  g_autofree char *path = test_path (&run->dir, "leaf");
  struct stat before, after;
  char *why = NULL;
  VhdkitImage *image;

  g_assert_cmpint (stat (path, &before), ==, 0);
  image = image_open (&run->dir, "leaf", VHDKIT_OPEN_RDWR, NULL, &why);
  if (image == NULL || !image_close (image, &why))
    return why;
  g_assert_cmpint (stat (path, &after), ==, 0);
  if (after.st_size < before.st_size)
    return g_strdup_printf ("%" G_GINT64_FORMAT " bytes at the end were not used",
                            (int64_t)(before.st_size - after.st_size));
  return NULL;
}

/* The last step of a merge whose target gets the place of its child: without middle, leaf is over base. */
static char *
look_without_middle (Run *run)
{
  g_autofree char *middle = test_path (&run->dir, "middle"), *base = test_path (&run->dir, "base");
  g_autofree char *kept = test_path (&run->dir, "kept");
  g_autoptr (GuestValues) values = NULL;
  char *why = NULL;

  /* What leaf names is a link to base for a moment. */
  g_assert_cmpint (g_rename (middle, kept), ==, 0);
  g_assert_cmpint (link (base, middle), ==, 0);
  values = image_values (&run->dir, "leaf", &why);
  if (values)
    why = guest_values_compare (values, run->values);
  g_assert_cmpint (g_rename (kept, middle), ==, 0);
  return why;
}

static bool
have_same_identity (const Run *run, const char *a, const char *b)
{
  const char *const names[] = { a, b };
  uint8_t identities[2][BLOCK_IDENTITY_SIZE];

  for (int i = 0; i < 2; i++)
    {
      g_autofree char *why = NULL;
      VhdkitImage *image = image_open (&run->dir, names[i], VHDKIT_OPEN_NO_PARENTS, NULL, &why);

      if (image == NULL || !bdrv_get_identity (image->bs, identities[i]))
        g_error ("%s: %s", names[i], why);
      image_close (image, NULL);
    }
  return memcmp (identities[0], identities[1], BLOCK_IDENTITY_SIZE) == 0;
}

static void
note_warning (void *opaque, VhdkitCheckSeverity severity, const char *text)
{
  char **first = opaque;

  if (severity == VHDKIT_CHECK_WARNING && *first == NULL)
    *first = g_strdup (text);
}

/* NULL, or what the check warns of: nothing of the parent is left. */
static char *
look_for_warnings (const Run *run)
{
  VhdkitCheckResult result = { 0 };
  char *why = NULL;
  VhdkitImage *image = image_open (&run->dir, "leaf", VHDKIT_OPEN_CHECK, NULL, &why);

  if (image == NULL)
    return why;
  vhdkit_image_check (image, false, &result, note_warning, &why, NULL);
  image_close (image, why ? NULL : &why);
  return why;
}

static char *
look_at_result (Run *run)
{
  static const char *const checked[] = { "leaf", "middle", "base" };
  const Case *c = run->c;
  /* A link of a VHDX that another has replaced may keep its place; a device is looked at as a file, which could be
   * shorter. */
  bool tidy = is_vhd (c) ? !(c->flags & DEVICE) : c->to == TO_NONE;
  int64_t leaks = 0;
  char *why = look_at_parent (run);

  for (int i = 0; i < (c->to == TO_IDENTITY ? 3 : 1) && !why; i++)
    why = image_check (&run->dir, checked[i], &leaks);
  if (!why && tidy && leaks > 0)
    why = g_strdup_printf ("%" G_GINT64_FORMAT " leaks", leaks);
  if (!why && !is_vhd (c) && c->to == TO_NONE)
    why = look_for_warnings (run);
  if (!why && c->to == TO_IDENTITY)
    why = look_without_middle (run);
  if (!why && is_vhd (c))
    why = image_look_at_layout (&run->dir, "leaf");
  if (!why && is_vhd (c) && tidy)
    why = look_for_unused (run);
  return why;
}

/* After a crash, and after the changed file has been opened for writing: all is where it belongs; and the change
 * again. */
static char *
change_again (void *opaque)
{
  Run *run = opaque;
  bool taken = run->c->to == TO_IDENTITY && have_same_identity (run, "base", "middle");
  char *why = is_vhd (run->c) ? image_look_at_layout (&run->dir, "leaf")
              : taken         ? look_without_middle (run)
                              : NULL;
  g_autoptr (GuestValues) before = why ? NULL : image_values (&run->dir, "leaf", &why);
  VhdkitImage *image = why ? NULL : open_to_change (run, NULL, &why);
  g_autoptr (GuestValues) after = NULL;
  char *text;

  if (!why)
    {
      why = relink_image (run, image);
      image_close (image, why ? NULL : &why);
    }
  if (!why)
    after = image_values (&run->dir, "leaf", &why);
  if (!why)
    why = guest_values_compare (after, before);
  if (!why)
    why = look_at_result (run);
  text = why ? g_strdup_printf ("the change once more: %s", why) : NULL;
  g_free (why);
  return text;
}

/* What a guest discards a VHD no longer hides from a parent that is yet to come. */
static bool
may_discard (const Case *c)
{
  return !is_vhd (c) || c->to != TO_NEW;
}

/* Opens, changes, and goes on using the image. */
static char *
live (Run *run, Guest *guest, char **filters, bool may_fail, bool *told)
{
  GuestMix mix = { .write = 6,
                   .zeroes = 1,
                   .zeroes_unmap = !is_vhd (run->c),
                   .discard = !is_vhd (run->c),
                   .flush = 1,
                   .read = 6,
                   .max_sectors = 32,
                   .whole_blocks = 20,
                   .block_size = run->c->block_size,
                   .ends = ends_of (run->c) };
  char *why = NULL;
  VhdkitImage *image = open_to_change (run, filters, &why);

  if (image == NULL)
    return why;

  g_auto (GuestRun) state = { .context = run->dir.context,
                              .image = image,
                              .guest = guest,
                              .trace = may_fail ? NULL : run->trace,
                              .rand = run->rand,
                              .depth = 3,
                              .may_fail = may_fail };
  g_autoptr (GuestValues) values = NULL;

  why = relink_image (run, image);
  *told |= why != NULL;
  run->changed_at = crash_trace_now (state.trace);
  if (!why && !may_fail)
    {
      /* Still with the nodes of the old link. */
      values = guest_read_image (image, &why);
      if (values)
        why = guest_values_compare (values, run->values);
    }
  if (!why || may_fail)
    guest_run (&state, &mix, run->c->writes);
  *told |= state.errors > 0;
  if (state.wrong)
    {
      g_free (why);
      why = g_steal_pointer (&state.wrong);
      *told = false;
    }
  if (image_close (image, why ? NULL : &why))
    guest_closed (&state);
  else
    *told = true;
  return why;
}

static CrashTrace *
new_trace (const Run *run)
{
  static const char *const names[][4] = { [TO_NEW] = { "leaf", "old", "new" },
                                          [TO_NONE] = { "leaf", "old" },
                                          [TO_OLD] = { "leaf", "old" },
                                          [TO_IDENTITY] = { "leaf", "middle", "base" } };
  const char *there[4] = { NULL };
  int n = 0;

  for (const char *const *name = names[run->c->to]; *name; name++)
    if (run->c->old_bytes || strcmp (*name, "old") != 0)
      there[n++] = *name;
  return recording_trace (&run->dir, "log", there);
}

static CrashJudge
judge_of (Run *run, CrashTrace *trace, const Guest *guest, int writes_after)
{
  bool identity = run->c->to == TO_IDENTITY;

  return (CrashJudge){ .dir = &run->dir,
                       .trace = trace,
                       .rand = run->rand,
                       .name = "leaf",
                       .guest = guest,
                       .changed = identity ? "base" : "leaf",
                       .writes_after = identity || !may_discard (run->c) ? 0 : writes_after,
                       .block_size = run->c->block_size,
                       .ends = ends_of (run->c),
                       .look = change_again,
                       .opaque = run };
}

/* --- crashes ---------------------------------------------------------------------------------------------- */

/* NULL, or which file was changed that was not to be. */
static char *
look_at_others (Run *run)
{
  static const char *const others[][2] = {
    [TO_NEW] = { "new", "old" }, [TO_NONE] = { "old" }, [TO_OLD] = { NULL }, [TO_IDENTITY] = { "leaf" }
  };

  for (int i = 0; i < 2; i++)
    {
      const char *name = others[run->c->to][i];
      g_autofree char *path = name ? test_path (&run->dir, name) : NULL;

      if (path && crash_trace_touches (run->trace, path))
        return g_strdup_printf ("%s was written to", path);
    }
  return NULL;
}

static bool
record (Run *run)
{
  g_autofree char *why = NULL;
  g_auto (GStrv) filters = NULL;
  bool told = false;

  make_files (run);
  run->guest = guest_new (run->values);
  run->trace = new_trace (run);
  filters = add_device (run->c, recording_filters (&run->dir, "log", run->rand));
  why = live (run, run->guest, filters, false, &told);
  crash_trace_load (run->trace);
  if (!why)
    why = look_at_result (run);
  if (!why)
    why = look_at_others (run);
  if (why)
    test_fail ("without a crash: %s", why);
  return !why;
}

/* NULL, or what is wrong with the last crash, before @cut: the image shows what it may; and the change is durable when
 * it has returned. */
static char *
judge_link (Run *run, size_t cut)
{
  int64_t at = crash_trace_position (run->trace, cut);
  char *why = NULL;
  g_autoptr (GuestValues) values = image_values (&run->dir, "leaf", &why);

  if (values)
    why = guest_check (run->guest, values, at);
  if (!why && at >= run->changed_at)
    why = run->c->to == TO_IDENTITY ? look_without_middle (run) : look_at_parent (run);
  return why;
}

/* Before every record, with all lost that may be, and with nothing lost. */
static void
judge_links (Run *run)
{
  static const CrashStrategy strategies[] = { CRASH_KEEP_NONE, CRASH_KEEP_ALL };

  for (size_t cut = 0; cut <= crash_trace_records (run->trace); cut++)
    for (size_t i = 0; i < G_N_ELEMENTS (strategies) && !g_test_failed (); i++)
      {
        g_autofree char *why = NULL;

        crash_trace_make (run->trace, cut, strategies[i], SIZE_MAX, run->rand);
        why = judge_link (run, cut);
        if (why)
          test_fail ("%s\n%s", why, crash_trace_story (run->trace));
      }
}

/* Others look at the copy of a VHD's footer first, or at the end only; so do we where the other is damaged.  What either
 * leads to is whole, until @end (a position in the log). */
static void
judge_by_one (Run *run, const char *footer, void (*damage_other) (const TestDir *dir, const char *name),
              int64_t end)
{
  static const CrashStrategy strategies[] = { CRASH_DROP_ONE, CRASH_KEEP_ONE, CRASH_TEAR };

  for (size_t cut = 0; cut <= crash_trace_records (run->trace); cut++)
    for (size_t i = 0; i < 3 * MAX (1, crash_trace_pending (run->trace, cut)) && !g_test_failed (); i++)
      {
        g_autoptr (GuestValues) values = NULL;
        g_autofree char *why = NULL;

        if (crash_trace_position (run->trace, cut) > end)
          return;
        crash_trace_make (run->trace, cut, strategies[i % 3], i / 3, run->rand);
        damage_other (&run->dir, "leaf");
        values = image_values (&run->dir, "leaf", &why);
        if (values)
          why = guest_check (run->guest, values, crash_trace_position (run->trace, cut));
        if (why)
          test_fail ("by the footer %s: %s\n%s", footer, why, crash_trace_story (run->trace));
      }
}

static void
test_crashes (gconstpointer data)
{
  const Case *c = data;
  int iterations = test_number ("VHDKIT_ITERATIONS", 1);

  for (int i = 0; i < iterations && !g_test_failed (); i++)
    {
      g_auto (Run) run = { .c = c };

      test_begin (&run.dir, &run.rand, "crash-relink", "relink-%s-%s-%d", image_kind_format (c->kind),
                  c->name, i);
      if (!record (&run))
        return;
      if (!ends_of (c))
        judge_links (&run);
      if (is_vhd (c) && !(c->flags & BAD_COPY))
        {
          judge_by_one (&run, "at offset 0", image_damage_end_footer, INT64_MAX);
          /* When blocks are allocated the end footer may be missing. */
          judge_by_one (&run, "at the end", image_damage_copy, run.changed_at);
        }

      CrashJudge judge = judge_of (&run, run.trace, run.guest, 10);

      if (!g_test_failed ())
        crash_judge_every (&judge, is_vhd (c) ? 0 : ends_of (c) ? 20 : 100);
    }
}

/* --- faults ----------------------------------------------------------------------------------------------- */

static const char *const faults[] = {
  "op=any,errno=EIO",
  "op=write,errno=ENOSPC",
  "op=write,short=512,errno=ENOSPC",
  "op=any,count=0,errno=EIO",
};

/* What the copy of a VHD's footer leads to, as in judge_by_one (); the file stays as it is. */
static char *
look_by_copy (Run *run, const Guest *guest)
{
  g_autofree char *path = test_path (&run->dir, "leaf");
  g_autofree char *file = NULL, *why = NULL;
  g_autoptr (GuestValues) values = NULL;
  gsize bytes;

  if (!is_vhd (run->c) || run->c->flags & BAD_COPY)
    return NULL;
  g_assert_true (g_file_get_contents (path, &file, &bytes, NULL));
  image_damage_end_footer (&run->dir, "leaf");
  values = image_values (&run->dir, "leaf", &why);
  if (values)
    why = guest_check (guest, values, 1);
  g_assert_true (g_file_set_contents (path, file, bytes, NULL));
  return why ? g_strdup_printf ("by the footer at offset 0: %s", why) : NULL;
}

static char *
one_fault (Run *run, const char *fault, int n)
{
  char **debug = g_new0 (char *, 3);
  g_auto (GStrv) filters = NULL;
  g_autoptr (Guest) guest = guest_new (run->values);
  CrashJudge judge = judge_of (run, NULL, guest, 50);
  bool told = false, failed;
  char *why;

  simdisk_set_seed (1);
  debug[0] = g_strdup ("simdisk");
  debug[1] = g_strdup_printf ("blkdebug,%s,n=%d,id=fault", fault, n);
  filters = add_device (run->c, debug);
  blkdebug_reset ("fault");
  crash_trace_restore (run->trace);
  why = live (run, guest, filters, true, &told);
  failed = blkdebug_get_failures ("fault") > 0;
  /* Not of a fault; or a message that names no file. */
  if (why
      && (!failed
          || (strstr (why, "leaf") == NULL && strstr (why, "middle") == NULL
              && strstr (why, "base") == NULL)))
    return why;
  told |= why != NULL;
  g_clear_pointer (&why, g_free);
  run->told += told;
  run->survived += failed && !told;
  if (!told)
    why = fault_swallowed ("fault");
  if (!why && !told)
    why = look_at_parent (run);
  if (!why)
    why = look_by_copy (run, guest);
  return why ? why : crash_judge_files (&judge, 1);
}

static void
test_faults (gconstpointer data)
{
  g_auto (Run) run = { .c = data };

  test_begin (&run.dir, &run.rand, "fault-relink", "relink-%s-%s", image_kind_format (run.c->kind),
              run.c->name);
  make_files (&run);
  run.trace = new_trace (&run);
  for (size_t i = 0; i < G_N_ELEMENTS (faults) && !g_test_failed (); i++)
    {
      int n = 0;

      run.told = run.survived = 0;
      do
        {
          n += test_fault_step ();

          g_autofree char *why = one_fault (&run, faults[i], n);

          if (why)
            test_fail ("%s at request %d: %s", faults[i], n, why);
        }
      while (!g_test_failed () && blkdebug_get_failures ("fault") > 0);
      g_test_message ("%s, in %d requests: %d times it was reported, %d times overcome", faults[i], n - 1,
                      run.told, run.survived);
    }
}

int
main (int argc, char **argv)
{
  test_init (&argc, &argv);
  g_assert_true (bdrv_register (&device_driver, NULL));
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      const char *format = image_kind_format (cases[i].kind);
      g_autofree char *crashes = g_strdup_printf ("/crash-relink/%s/%s", format, cases[i].name);
      g_autofree char *fault = g_strdup_printf ("/crash-relink/%s/faults-%s", format, cases[i].name);

      g_test_add_data_func (crashes, &cases[i], test_crashes);
      if (!(cases[i].flags & NO_FAULTS))
        g_test_add_data_func (fault, &cases[i], test_faults);
    }
  return g_test_run ();
}
