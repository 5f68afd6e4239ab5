/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's administrator: compact, commit, rebase, and what these would do.
 *
 * While something is only foreseen, a write ends the process (fuzz_store_set_writable ()), and files and nodes are
 * afterwards what they were before.  Of a rebase the library has no dry run; the walk that it begins with is one.
 */
#include "fuzz-guest.h"

#include "api.h"
#include "rebase-plan.h"

/* --- nothing changes ------------------------------------------------------------------------------------ */

#define MAX_NODES 8

typedef struct
{
  int64_t bytes, container_bytes;
  bool read_only, poisoned, same_content;
} NodeState;

typedef struct
{
  Content *files[FUZZ_FILES];
  NodeState nodes[MAX_NODES];
  int n_nodes;
} Snapshot;

static int
look_at_nodes (const Guest *guest, NodeState nodes[MAX_NODES])
{
  int n = 0;

  for (BlockDriverState *bs = guest->image->bs; bs && n < MAX_NODES; bs = bs->backing)
    nodes[n++] = (NodeState){ .bytes = bdrv_length (bs),
                              .container_bytes = bdrv_length (bdrv_protocol_node (bs)),
                              .read_only = bs->read_only,
                              .poisoned = bdrv_is_poisoned (bs),
                              .same_content = bs->same_content };
  return n;
}

static void
snapshot_take (Snapshot *snapshot, const Guest *guest)
{
  *snapshot = (Snapshot){ .n_nodes = 0 };
  for (unsigned i = 0; i < FUZZ_FILES; i++)
    {
      snapshot->files[i] = content_new ();
      content_copy (snapshot->files[i], fuzz_store_get (i));
    }
  snapshot->n_nodes = look_at_nodes (guest, snapshot->nodes);
  fuzz_store_set_writable (false);
}

/* Takes it apart, too. */
static void
snapshot_compare (Snapshot *snapshot, const Guest *guest)
{
  NodeState now[MAX_NODES];

  fuzz_store_set_writable (true);
  for (unsigned i = 0; i < FUZZ_FILES; i++)
    {
      g_assert_cmpint (content_length (fuzz_store_get (i)), ==, content_length (snapshot->files[i]));
      g_assert_cmpint (content_compare (fuzz_store_get (i), snapshot->files[i]), ==, -1);
      content_free (snapshot->files[i]);
    }
  g_assert_cmpint (look_at_nodes (guest, now), ==, snapshot->n_nodes);
  for (int i = 0; i < snapshot->n_nodes; i++)
    {
      const NodeState *before = &snapshot->nodes[i];

      g_assert_cmpint (now[i].bytes, ==, before->bytes);
      g_assert_cmpint (now[i].container_bytes, ==, before->container_bytes);
      g_assert_cmpint (now[i].read_only, ==, before->read_only);
      g_assert_cmpint (now[i].poisoned, ==, before->poisoned);
      g_assert_cmpint (now[i].same_content, ==, before->same_content);
    }
}

static void
assert_within (int64_t value, int64_t most)
{
  g_assert_cmpint (value, >=, 0);
  g_assert_cmpint (value, <=, most);
}

/* How many bytes of the image the layers from @first to @last decide, of what is not known to be zeros with @data; -1: it
 * is too large to be looked at, or cannot be. */
static int64_t
decided_bytes (const Guest *guest, int first, int last, bool data)
{
  int64_t sum = 0;
  VhdkitExtent extent;

  if (vhdkit_image_get_size (guest->image) != guest->bytes)
    return -1;
  for (int64_t at = 0; at < guest->bytes; at += extent.bytes)
    {
      if (vhdkit_image_get_extent (guest->image, at, guest->bytes - at, &extent) < 0)
        return -1;
      if (extent.present && extent.depth >= first && extent.depth <= last && !(data && extent.zero))
        sum += extent.bytes;
    }
  return sum;
}

/* --- compact -------------------------------------------------------------------------------------------- */

static VhdkitCompactOptions
compact_options (const Guest *guest, uint8_t flags)
{
  static const VhdkitCompactMode modes[] = { VHDKIT_COMPACT_FULL, VHDKIT_COMPACT_PREZEROED,
                                             VHDKIT_COMPACT_PRETRIMMED, VHDKIT_COMPACT_PUNCH };

  /* A stranger's disk may have file systems, whose free space does not stay as it was. */
  return (VhdkitCompactOptions){ .struct_size = sizeof (VhdkitCompactOptions),
                                 .mode = guest->own ? modes[flags % 4] : modes[1 + flags % 2],
                                 .no_block_moves = flags & 4,
                                 .parallel = 1 + flags % 3 };
}

static bool
run_compact (Guest *guest, const VhdkitCompactOptions *options, VhdkitCompactStats *stats)
{
  GError *error = NULL;
  VhdkitJob *job = vhdkit_compact_new (guest->image, options, &error);
  bool done = guest_run_job (guest, job, error, options->dry_run ? "plan of a compact" : "compact");

  if (done)
    vhdkit_compact_get_stats (job, stats);
  vhdkit_job_free (job);
  return done;
}

void
guest_compact (Guest *guest, uint8_t flags)
{
  VhdkitCompactOptions options = compact_options (guest, flags);
  VhdkitCompactStats stats;

  run_compact (guest, &options, &stats);
}

static void
judge_compact_stats (const VhdkitCompactStats *stats)
{
  int64_t bytes = stats->blocks_allocated * stats->block_size;

  g_assert_cmpint (stats->block_size, >=, 0);
  g_assert_cmpint (stats->blocks_allocated, >=, 0);
  assert_within (stats->blocks_dropped, stats->blocks_allocated);
  assert_within (stats->blocks_moved, stats->blocks_allocated);
  g_assert_cmpint (stats->blocks_free, >=, 0);
  g_assert_cmpint (stats->blocks_zero, >=, 0);
  g_assert_cmpint (stats->blocks_same, >=, 0);
  g_assert_cmpint (stats->blocks_free + stats->blocks_zero + stats->blocks_same, ==, stats->blocks_dropped);
  assert_within (stats->bytes_free, bytes);
  assert_within (stats->bytes_zero, bytes);
  assert_within (stats->bytes_same, bytes);
  assert_within (stats->bytes_free + stats->bytes_zero + stats->bytes_same, bytes);
  assert_within (stats->bytes_unmapped, stats->file_size_before);
  assert_within (stats->bytes_punched, stats->file_size_before);
  assert_within (stats->file_size_after, stats->file_size_before);
  g_assert_cmpint (stats->host_bytes_before, >=, -1);
  g_assert_cmpint (stats->host_bytes_after, >=, -1);
}

void
guest_plan_compact (Guest *guest, uint8_t flags)
{
  VhdkitCompactOptions options = compact_options (guest, flags);
  VhdkitCompactStats foreseen, stats;
  Snapshot snapshot;

  /* Read-only, or with nothing that would be written anyway. */
  if (flags & 0x10 ? !guest_reopen (guest, 0) : vhdkit_image_flush (guest->image) < 0)
    return;
  options.punch_blocks = options.mode == VHDKIT_COMPACT_PUNCH && flags & 0x20;
  options.dry_run = true;
  snapshot_take (&snapshot, guest);

  bool done = run_compact (guest, &options, &foreseen);

  snapshot_compare (&snapshot, guest);
  if (done)
    judge_compact_stats (&foreseen);
  guest_compare_all (guest);
  if (flags & 0x10 && !guest_reopen (guest, VHDKIT_OPEN_RDWR))
    return;
  options.dry_run = false;
  if (!done || !(flags & PLAN_AND_RUN) || !run_compact (guest, &options, &stats))
    return;
  judge_compact_stats (&stats);
  g_assert_cmpint (stats.blocks_dropped, ==, foreseen.blocks_dropped);
  g_assert_cmpint (stats.file_size_after, ==, foreseen.file_size_after);
}

/* --- commit --------------------------------------------------------------------------------------------- */

/* Of the image, opened read-only, and with parents. */
static VhdkitCommitOptions
commit_options (const Guest *guest, uint8_t depth)
{
  VhdkitCommitOptions options = { .struct_size = sizeof options,
                                  .target_layer = 1 + depth % 3,
                                  .shrink_target = depth & 0x10,
                                  .break_siblings = depth & 0x20,
                                  .skip_identical = depth & 0x40 };

  options.target_layer = MIN (options.target_layer, vhdkit_image_get_depth (guest->image) - 1);
  options.source_layer = depth & 0x80 && options.target_layer > 1 ? 1 : 0;
  return options;
}

/* The leaf is as it was; what it shows comes from below. */
static bool
run_commit (Guest *guest, const VhdkitCommitOptions *options, VhdkitCommitStats *stats)
{
  GError *error = NULL;
  VhdkitJob *job = vhdkit_commit_new (guest->image, options, &error);
  bool done = guest_run_job (guest, job, error, "commit");

  if (done)
    vhdkit_commit_get_stats (job, stats);
  vhdkit_job_free (job);
  guest_compare_all (guest);
  return done;
}

void
guest_commit (Guest *guest, uint8_t depth)
{
  VhdkitCommitStats stats;

  if (!guest_reopen (guest, 0))
    return;
  if (vhdkit_image_get_depth (guest->image) > 1)
    {
      VhdkitCommitOptions options = commit_options (guest, depth);

      run_commit (guest, &options, &stats);
    }
  guest_reopen (guest, VHDKIT_OPEN_RDWR);
}

static void
judge_commit_plan (const Guest *guest, const VhdkitCommitOptions *options, const VhdkitCommitPlan *plan)
{
  int64_t size = plan->virtual_size_after, moved = plan->bytes_to_copy + plan->bytes_to_clone_estimate;
  int64_t of_layers = 0;

  assert_within (plan->bytes_to_copy, size);
  assert_within (plan->bytes_to_clone_estimate, size);
  assert_within (plan->bytes_to_zero, size);
  assert_within (moved + plan->bytes_to_zero, size);
  g_assert_cmpint (plan->virtual_size_before, >=, 0);
  assert_within (plan->host_bytes_expected, plan->host_bytes_worst);
  g_assert_cmpint (plan->host_bytes_free, >=, -1);
  assert_within (plan->measured_bytes, plan->bytes_to_copy);
  g_assert_cmpfloat (plan->measured_seconds, >=, 0);
  g_assert_cmpint (plan->n_layers, ==, vhdkit_image_get_depth (guest->image));
  for (int i = 0; i < plan->n_layers; i++)
    {
      int64_t decided = options->source_layer == 0 && i < options->target_layer && !plan->already_merged
                            ? decided_bytes (guest, i, i, false)
                            : -1;

      assert_within (plan->layers[i].bytes, size);
      if (decided >= 0)
        g_assert_cmpint (plan->layers[i].bytes, ==, decided);
      of_layers += plan->layers[i].bytes;
    }
  assert_within (of_layers, size);
  assert_within (moved + plan->bytes_to_zero, of_layers);
}

static bool
foresee_commit (Guest *guest, const VhdkitCommitOptions *options, VhdkitCommitPlan *plan)
{
  g_autoptr (GError) got = NULL;
  GError *error = NULL;
  VhdkitJob *job = vhdkit_commit_plan_new (guest->image, options, &error);
  bool done = guest_run_job (guest, job, error, "plan of a commit");

  if (done)
    {
      vhdkit_commit_plan_get (job, plan, &got);
      g_assert_no_error (got);
    }
  vhdkit_job_free (job);
  return done;
}

static void
foresee_and_commit (Guest *guest, uint8_t depth)
{
  VhdkitCommitOptions options = commit_options (guest, depth);
  g_auto (VhdkitCommitPlan) plan = { 0 };
  VhdkitCommitStats stats;
  Snapshot snapshot;

  snapshot_take (&snapshot, guest);

  bool done = foresee_commit (guest, &options, &plan);

  snapshot_compare (&snapshot, guest);
  guest_compare_all (guest);
  if (!done)
    return;
  judge_commit_plan (guest, &options, &plan);
  if (!(depth & PLAN_AND_RUN) || !run_commit (guest, &options, &stats))
    return;
  g_assert_cmpint (stats.bytes_copied, >=, 0);
  g_assert_cmpint (stats.bytes_cloned, >=, 0);
  g_assert_cmpint (stats.bytes_zeroed, >=, 0);
  assert_within (stats.bytes_copied + stats.bytes_cloned, plan.bytes_to_copy + plan.bytes_to_clone_estimate);
}

void
guest_plan_commit (Guest *guest, uint8_t depth)
{
  if (!guest_reopen (guest, 0))
    return;
  if (vhdkit_image_get_depth (guest->image) > 1)
    foresee_and_commit (guest, depth);
  guest_reopen (guest, VHDKIT_OPEN_RDWR);
}

/* --- rebase --------------------------------------------------------------------------------------------- */

/* The image shows the same with another parent, or none. */
static bool
run_rebase (Guest *guest, VhdkitImage *parent, VhdkitRebaseStats *stats)
{
  VhdkitRebaseOptions options = { .struct_size = sizeof options };
  GError *error = NULL;
  VhdkitJob *job = vhdkit_rebase_new (guest->image, parent, &options, &error);
  bool done = guest_run_job (guest, job, error, "rebase");

  if (done)
    vhdkit_rebase_get_stats (job, stats);
  vhdkit_job_free (job);
  return done;
}

void
guest_rebase (Guest *guest)
{
  VhdkitRebaseStats stats;

  if (!guest_reopen (guest, 0))
    return;
  if (vhdkit_image_get_depth (guest->image) > 1)
    run_rebase (guest, NULL, &stats);
  guest_reopen (guest, VHDKIT_OPEN_RDWR);
}

/* One of the files behind the leaf's, or NULL. */
static VhdkitImage *
open_parent (const Guest *guest, uint8_t file)
{
  int n = guest->own ? guest->layers - 1 : FUZZ_FILES - 1;

  return n > 0 ? guest_open_file (1 + file % n, 0, NULL) : NULL;
}

static void
close_parent (VhdkitImage *parent)
{
  g_autoptr (GError) error = NULL;

  if (!parent)
    return;
  vhdkit_image_close (parent, &error);
  g_assert_no_error (error);
}

void
guest_rebase_onto (Guest *guest, uint8_t file)
{
  VhdkitImage *parent;
  VhdkitRebaseStats stats;

  if (!guest_reopen (guest, 0))
    return;
  parent = open_parent (guest, file);
  if (parent && run_rebase (guest, parent, &stats))
    {
      int64_t size = vhdkit_image_get_size (guest->image);

      assert_within (stats.bytes_copied, size);
      assert_within (stats.bytes_cloned, size);
      assert_within (stats.bytes_zeroed, size);
      assert_within (stats.bytes_copied + stats.bytes_cloned + stats.bytes_zeroed, size);
    }
  close_parent (parent);
  if (guest_reopen (guest, VHDKIT_OPEN_RDWR))
    guest_compare_all (guest);
}

typedef struct
{
  Job job;
  BlockDriverState *leaf, *parent;
  SpaceNeed need;
  int64_t bytes;
} RebaseWalk;

static bool coroutine_fn
rebase_walk_co_run (Job *job, GError **error)
{
  RebaseWalk *walk = (RebaseWalk *)job;

  walk->need = (SpaceNeed)SPACE_NEED_INIT;
  return rebase_co_plan (job, walk->leaf, walk->parent, &walk->need, &walk->bytes, error);
}

static const JobDriver rebase_walk_driver = {
  .instance_size = sizeof (RebaseWalk),
  .verb = "plan of a rebase",
  .co_run = rebase_walk_co_run,
};

/* What is to be looked at is part of the disk, what is to be stored as well, in whole blocks of the host and with a page of
 * tables for each 2 MiB. */
static void
walk_rebase (Guest *guest, VhdkitImage *parent)
{
  int64_t size = vhdkit_image_get_size (guest->image), blocks = (size + 4095) / 4096 * 4096;
  int64_t decided;
  g_autoptr (Job) job = job_new (&rebase_walk_driver, guest->image->context->aio, NULL);
  RebaseWalk *walk = (RebaseWalk *)job;

  g_assert_nonnull (job);
  walk->leaf = guest->image->bs;
  walk->parent = parent ? parent->bs : NULL;
  job_start (job, NULL, NULL);
  while (job_get_state (job) != JOB_CONCLUDED)
    api_poll (guest->image->context, true);
  if (!guest_judge_error (guest, job->error, "plan of a rebase"))
    return;
  assert_within (walk->bytes, size);
  if (!parent && (decided = decided_bytes (guest, 1, G_MAXINT, true)) >= 0)
    g_assert_cmpint (walk->bytes, ==, decided);
  assert_within (walk->need.data, blocks);
  assert_within (walk->need.bytes - walk->need.data, (size / (2 << 20) + 1) * 4096);
}

/* To have none is foreseen as well. */
void
guest_plan_rebase (Guest *guest, uint8_t file)
{
  VhdkitImage *parent = NULL;
  Snapshot snapshot;

  if (!guest_reopen (guest, 0))
    return;
  if (vhdkit_image_get_depth (guest->image) > 1)
    {
      if (!(file & 0x80))
        parent = open_parent (guest, file);
      snapshot_take (&snapshot, guest);
      walk_rebase (guest, parent);
      snapshot_compare (&snapshot, guest);
      close_parent (parent);
      guest_compare_all (guest);
    }
  guest_reopen (guest, VHDKIT_OPEN_RDWR);
}
