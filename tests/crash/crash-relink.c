/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crashes and faults while an image gets another parent, or none, and while a writable open puts right what such a
 * crash has left.
 *
 * The new parent shows what the old one does wherever the image itself does not decide, and something else where it
 * does: whatever link is found, the image reads the same, and neither link may be found with content that belongs to
 * the other.  A crash leaves the old link or the new one, and when the operation has returned, the new one; the same
 * asked for again finishes.
 *
 * VHDKIT_SEED repeats a run, VHDKIT_ITERATIONS runs of each case; VHDKIT_CRASH_CUTS crashes of each VHDX (long.sh).
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

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
  TO_OLD, /* nothing is changed by hand: just opened for writing */
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
        guest_values_set (
            values, sector,
            extent.has_file_offset && extent.depth == 0 ? 777 : guest_values_get (run->values, sector));
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
}

static void
make_files (Run *run)
{
  const Case *c = run->c;
  g_autoptr (GuestValues) parent = NULL;
  g_autofree char *why = NULL;

  if (c->old_bytes)
    {
      image_make (&run->dir, "old", c->kind, c->old_bytes, 2 * c->block_size, NULL);
      image_populate (&run->dir, "old", run->rand, 40, c->block_size, 0);
    }
  image_make (&run->dir, "leaf", c->kind, c->bytes, c->block_size, c->old_bytes ? "old" : NULL);
  if (c->flags & BATMAP)
    image_add_batmap (&run->dir, "leaf");
  image_populate (&run->dir, "leaf", run->rand, 5, c->block_size, 0);
  run->values = image_values (&run->dir, "leaf", &why);
  if (run->values == NULL)
    g_error ("%s", why);
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
  BlockParentChange change;
  bool ok;
  GError *error;
} Relink;

static void coroutine_fn
relink_entry (void *opaque)
{
  Relink *relink = opaque;

  relink->ok = relink->bs->drv->co_change_parent (relink->bs, &relink->change, &relink->error);
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
  Relink relink = { .bs = image->bs, .change = { .child_path = leaf } };
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

/* NULL, or what is not so: the leaf has the parent it is to have. */
static char *
look_at_parent (Run *run)
{
  static const char *const wanted[] = { [TO_NEW] = "new", [TO_NONE] = NULL, [TO_OLD] = "old" };
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
  else if (name && !g_str_has_suffix (info.parent_name, name))
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

static char *
look_at_result (Run *run)
{
  int64_t leaks = 0;
  char *why = look_at_parent (run);

  if (!why)
    why = image_check (&run->dir, "leaf", &leaks);
  /* Here it is looked at as a file, which could be shorter. */
  if (!why && leaks > 0 && !(run->c->flags & DEVICE))
    why = g_strdup_printf ("%" G_GINT64_FORMAT " leaks", leaks);
  if (!why && is_vhd (run->c))
    why = image_look_at_layout (&run->dir, "leaf");
  if (!why && is_vhd (run->c) && !(run->c->flags & DEVICE))
    why = look_for_unused (run);
  return why;
}

/* After a crash, and after the leaf has been opened for writing: all is where it belongs; and the change again. */
static char *
change_again (void *opaque)
{
  Run *run = opaque;
  char *why = is_vhd (run->c) ? image_look_at_layout (&run->dir, "leaf") : NULL;
  g_autoptr (GuestValues) before = why ? NULL : image_values (&run->dir, "leaf", &why);
  VhdkitImage *image = why ? NULL : image_open (&run->dir, "leaf", VHDKIT_OPEN_RDWR, NULL, &why);
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

/* What a guest discards the image no longer hides from a parent that is yet to come. */
static int
writes_after (const Case *c, int percent)
{
  return c->to == TO_NEW ? 0 : percent;
}

/* Opens, changes, and goes on using the image. */
static char *
live (Run *run, Guest *guest, char **filters, bool may_fail, bool *told)
{
  GuestMix mix = { .write = 6,
                   .zeroes = 1,
                   .flush = 1,
                   .read = 6,
                   .max_sectors = 32,
                   .whole_blocks = 20,
                   .block_size = run->c->block_size };
  char *why = NULL;
  VhdkitImage *image = image_open (&run->dir, "leaf", VHDKIT_OPEN_RDWR, filters, &why);

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

/* --- crashes ---------------------------------------------------------------------------------------------- */

static bool
record (Run *run)
{
  g_autofree char *leaf = test_path (&run->dir, "leaf"), *old = test_path (&run->dir, "old");
  g_autofree char *log = test_path (&run->dir, "log");
  g_autofree char *why = NULL;
  g_auto (GStrv) filters = NULL;
  bool told = false;

  make_files (run);
  run->guest = guest_new (run->values);
  run->trace = crash_trace_new (log, (const char *[]){ leaf, run->c->old_bytes ? old : NULL, NULL });
  filters = add_device (run->c, recording_filters (&run->dir, "log", run->rand));
  why = live (run, run->guest, filters, false, &told);
  if (!why)
    why = look_at_result (run);
  if (!why && run->c->old_bytes && run->c->to != TO_OLD)
    {
      crash_trace_load (run->trace);
      why = crash_trace_touches (run->trace, old) ? g_strdup ("the old parent was written to") : NULL;
    }
  else if (!why)
    {
      crash_trace_load (run->trace);
    }
  if (why)
    test_fail ("without a crash: %s", why);
  return !why;
}

/* The change is durable when it returns. */
static void
judge_durable (Run *run)
{
  for (size_t cut = 0; cut <= crash_trace_records (run->trace) && !g_test_failed (); cut++)
    {
      g_autofree char *why = NULL;

      if (crash_trace_position (run->trace, cut) < run->changed_at)
        continue;
      crash_trace_make (run->trace, cut, CRASH_KEEP_NONE, SIZE_MAX, run->rand);
      why = look_at_parent (run);
      if (why)
        test_fail ("after the change has returned: %s\n%s", why, crash_trace_story (run->trace));
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
      g_autofree char *name = g_strdup_printf ("relink-%s-%s-%d", image_kind_format (c->kind), c->name, i);

      run.rand = test_rand (name);
      test_dir_init (&run.dir, "crash-relink");
      if (!record (&run))
        return;
      judge_durable (&run);
      if (is_vhd (c) && !(c->flags & BAD_COPY))
        {
          judge_by_one (&run, "at offset 0", image_damage_end_footer, INT64_MAX);
          /* When blocks are allocated the end footer may be missing. */
          judge_by_one (&run, "at the end", image_damage_copy, run.changed_at);
        }

      CrashJudge judge = { .dir = &run.dir,
                           .trace = run.trace,
                           .rand = run.rand,
                           .name = "leaf",
                           .guest = run.guest,
                           .changed = "leaf",
                           .writes_after = writes_after (c, 10),
                           .block_size = c->block_size,
                           .look = change_again,
                           .opaque = &run };

      if (!g_test_failed ())
        crash_judge_every (&judge, is_vhd (c) ? 0 : 100);
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
  CrashJudge judge = { .dir = &run->dir,
                       .rand = run->rand,
                       .name = "leaf",
                       .guest = guest,
                       .changed = "leaf",
                       .writes_after = writes_after (run->c, 50),
                       .block_size = run->c->block_size,
                       .look = change_again,
                       .opaque = run };
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
  if (why && !failed)
    return why;
  /* A message of whoever was told. */
  if (why && strstr (why, "leaf") == NULL)
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
  g_autofree char *name = g_strdup_printf ("relink-%s-%s", image_kind_format (run.c->kind), run.c->name);

  run.rand = test_rand (name);
  test_dir_init (&run.dir, "fault-relink");
  make_files (&run);

  g_autofree char *leaf = test_path (&run.dir, "leaf"), *log = test_path (&run.dir, "log");

  run.trace = crash_trace_new (log, (const char *[]){ leaf, NULL });
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
      g_autofree char *fault = g_strdup_printf ("/crash-relink/%s/faults/%s", format, cases[i].name);

      g_test_add_data_func (crashes, &cases[i], test_crashes);
      g_test_add_data_func (fault, &cases[i], test_faults);
    }
  return g_test_run ();
}
