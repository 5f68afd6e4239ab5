/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs: long operations with progress, pause and cancel.
 *
 *   created --start--> running <--pause/resume--> paused
 *                        |  (cancel, error, end)
 *                        v
 *                    concluded --free-->
 *
 * A job runs in its image's context.  It begins when the writes of its images that were under way have ended.  Images of
 * a running job may be read, not written or closed, and one that it changes is for no other job: of two, the second ends
 * with IN_USE.  Every job leaves consistent images wherever it stops, and finishes what is left when it is made and run
 * again.
 */
#ifndef VHDKIT_JOB_H
#define VHDKIT_JOB_H

#include <vhdkit/image.h>

G_BEGIN_DECLS

typedef struct VhdkitJob VhdkitJob;

typedef enum
{
  VHDKIT_JOB_CREATED,
  VHDKIT_JOB_RUNNING,
  VHDKIT_JOB_PAUSED,
  VHDKIT_JOB_CONCLUDED,
} VhdkitJobState;

/* @done and @total in bytes of work; total may grow, done never exceeds it, and only the state says that
 * a job has ended. */
typedef struct
{
  VhdkitJobState state;
  int64_t done, total;
} VhdkitJobProgress;

typedef void (*VhdkitJobCallback) (VhdkitJob *job, void *opaque);

/* @concluded is called once, from the context's loop; may be NULL. */
void vhdkit_job_start (VhdkitJob *job, VhdkitJobCallback concluded, void *opaque);
/* Start, drive the context until the job has concluded, return its result.  @progress (may be NULL) is
 * called from time to time, at most every 100 ms. */
bool vhdkit_job_run (VhdkitJob *job, VhdkitJobCallback progress, void *opaque, GError **error);
/* Requests; looked at in safe places.  [any thread, and signal handlers] */
void vhdkit_job_cancel (VhdkitJob *job);
void vhdkit_job_pause (VhdkitJob *job);
void vhdkit_job_resume (VhdkitJob *job);
/* Bytes per second, 0: no limit. */
void vhdkit_job_set_rate_limit (VhdkitJob *job, int64_t bytes_per_second);
void vhdkit_job_get_progress (VhdkitJob *job, VhdkitJobProgress *progress);
/* The result of a concluded job: false and a copy of its error, or true. */
bool vhdkit_job_get_result (VhdkitJob *job, GError **error);
/* The file the job reads (the uppermost one) and the one it changes or fills, as the images name them; NULL: none.
 * Borrowed from the images. */
void vhdkit_job_get_files (VhdkitJob *job, const char **source, const char **target);
/* Created or concluded jobs only. */
void vhdkit_job_free (VhdkitJob *job);

/* --- commit -------------------------------------------------------------------------------------------- */

/* Whether the target shares the sources' extents on the host instead of copying their data. */
typedef enum
{
  VHDKIT_REFLINK_AUTO,   /* where it can be */
  VHDKIT_REFLINK_ALWAYS, /* or the job fails before its first write.  What is smaller than a block of the host's
                          * file system is copied. */
  VHDKIT_REFLINK_NEVER, /* all is read and written */
} VhdkitReflink;

typedef struct
{
  size_t struct_size; /* sizeof (VhdkitCommitOptions) */
  int source_layer;   /* uppermost layer merged; 0: the leaf of @image */
  int target_layer;   /* layer merged into, > source_layer */
  unsigned parallel;  /* coroutines, 0: default */
  VhdkitReflink reflink;
  /* What follows when the target holds everything and that is durable.  All of it is checked, and the files are locked,
   * before the first write.  An error from then on says that the merge is complete. */
  const char *const
      *relink; /* paths of children of the source, NULL-terminated, or NULL: they get the target as their
                              * parent.  One that has it already shows that an earlier run was interrupted: then
                              * nothing is merged, and it is refused unless the target shows what the source does */
  /* Remove the files of the merged layers, the source's at last.  Refused with HAS_CHILDREN while the source has children
   * beside it that are not in @relink.  Interrupted, it is finished by vhdkit_commit_remove_remains (). */
  bool delete_sources;
  /* The target's file takes the name of the source's, of the same format and file system, and if the target has a
   * parent, in the same directory.  Children of a VHDX source stay linked; others are to be in @relink, or it is refused
   * with HAS_CHILDREN. */
  bool rename_target;
  bool shrink_target; /* the source is smaller than the target: cut the target (else refused) */
  bool
      skip_identical; /* read the target too, and write only what differs (of what is not shared); of no effect with
                        * delete_sources or rename_target, when nothing but the target is left to trust */
  /* Other images depend on the target or on a layer between, as vhdkit_image_find_children () finds them: merge all the
   * same.  Else it is refused with HAS_CHILDREN before anything is written, and the message names some of them.  Implies
   * ignore_unknown. */
  bool break_siblings;
  /* It is not known whether some do (VhdkitChild.problem): as if they did not.  Else it is refused as well. */
  bool ignore_unknown;
  bool reserved[2];
} VhdkitCommitOptions;

/* What a commit did. */
typedef struct
{
  int64_t bytes_copied, bytes_cloned, bytes_zeroed;
  int64_t bytes_skipped; /* the target had them already: zeros, and with skip_identical data as well */
} VhdkitCommitStats;

/* Merge the layers from @source_layer down to the one above @target_layer into @target_layer.  @image is
 * opened read-only; the job makes the target writable.  The view through the source stays the same at every
 * instant and after a crash.  Layers below the target are not touched; other children of the target and
 * of the layers between are invalidated: see break_siblings.  The files stay unless delete_sources or rename_target is
 * set; what is above the source in @image's chain is then linked to the target. */
VhdkitJob *vhdkit_commit_new (VhdkitImage *image, const VhdkitCommitOptions *options, GError **error);
void vhdkit_commit_get_stats (VhdkitJob *job, VhdkitCommitStats *stats);

/* Finishes the removal of merged images: a commit with delete_sources, of which @source was the uppermost image merged,
 * was interrupted after it had removed the first of several, and cannot be run again.  What is left is known from the
 * list that it wrote beside @source (its path with ".remains" behind it), which goes at last; @source itself need not be
 * there any more.  Nothing is removed that is not the file that was merged, as it was then, or that holds what the target
 * does not show, or while the target is not there; and only a list is followed that the caller's user wrote.
 * Returns the paths of what was removed, NULL-terminated, to be freed with g_strfreev ().  NULL: @error; NOT_FOUND: there
 * is no such list, or no image of it is gone yet: then the commit can be run again.  @context, @confine: as for
 * vhdkit_image_open (). */
char **vhdkit_commit_remove_remains (VhdkitContext *context, const char *source, const char *confine,
                                     GError **error);

typedef enum
{
  VHDKIT_COMMIT_ABOVE,   /* above the source: not concerned */
  VHDKIT_COMMIT_SOURCE,  /* the uppermost layer merged; shows the same afterwards */
  VHDKIT_COMMIT_BETWEEN, /* merged as well; of no use by itself afterwards */
  VHDKIT_COMMIT_TARGET,
  VHDKIT_COMMIT_BELOW, /* not concerned */
} VhdkitCommitRole;

/* What becomes of a layer's file. */
typedef enum
{
  VHDKIT_COMMIT_STAYS,
  VHDKIT_COMMIT_REMOVED,
  VHDKIT_COMMIT_REPLACED, /* the target takes its name */
  VHDKIT_COMMIT_RENAMED,  /* the target, to the name of the source */
} VhdkitCommitFate;

typedef struct
{
  char *filename;
  VhdkitCommitRole role;
  VhdkitCommitFate fate;
  int64_t bytes; /* guest bytes that this layer gives to the target */
} VhdkitCommitPlanLayer;

/* What a commit would do.  Bytes are guest bytes unless they are said to be the host's. */
typedef struct
{
  int64_t bytes_to_copy; /* at most: runs of zeros are found, and equal data skipped, only when it is read */
  int64_t bytes_to_clone_estimate;                 /* that the target is expected to share */
  int64_t bytes_to_zero;                           /* that are zeros in a source and data in the target */
  int64_t virtual_size_before, virtual_size_after; /* of the target */
  int64_t host_bytes_worst, host_bytes_expected;   /* host space the target may take up more */
  int64_t host_bytes_free; /* of the target's file system, -1: not known, or of no account (a device) */
  /* What an interrupted run has left at the end of the target's file: where the free space is not enough, it is cut off
   * before anything else; 0: nothing is. */
  int64_t host_bytes_to_cut;
  bool enough_space; /* with both; else vhdkit_commit_new ()'s job would be refused */
  /* A sample of what is to be copied was read in so much time; 0: nothing was.  Writing is not measured. */
  int64_t measured_bytes;
  double measured_seconds;
  /* For reading what is to be copied, at the measured rate: a commit takes longer.  < 0: not known. */
  double estimated_seconds;
  VhdkitCommitPlanLayer *layers; /* the whole chain from the leaf */
  int n_layers;
  char **relinked;      /* images that get the target as their parent, NULL-terminated */
  bool already_merged;  /* by a run that was interrupted: only what follows a merge is left */
  char *target_problem; /* why the target's file cannot be written: the commit would be refused; or NULL */
} VhdkitCommitPlan;

/* A job that writes nothing and finds out what a commit with the same arguments would do: reads the allocation
 * tables and, for at most a third of a second, a sample of the data.  Fails where the commit would be refused, but for
 * lack of space, a target that cannot be written, and other images above what it changes: see enough_space,
 * target_problem and vhdkit_image_find_children (). */
VhdkitJob *vhdkit_commit_plan_new (VhdkitImage *image, const VhdkitCommitOptions *options, GError **error);
/* What the job, concluded with success, has found; clear it.  Its image must be open still.  false with @error: it has
 * found nothing. */
bool vhdkit_commit_plan_get (VhdkitJob *job, VhdkitCommitPlan *plan, GError **error);
void vhdkit_commit_plan_clear (VhdkitCommitPlan *plan);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (VhdkitCommitPlan, vhdkit_commit_plan_clear)

/* --- compact ------------------------------------------------------------------------------------------- */

/* What is looked for, and what is done about it.  Blocks that the image's own tables say are not in use are given back
 * in every mode.  Free space of the guest's file systems is used in all but PREZEROED and PRETRIMMED, and reads as zeros
 * or as what the parent shows afterwards; not, with a warning of the image, where there are other images above this one
 * (vhdkit_image_find_children ()): FULL is then PREZEROED, QUICK is PRETRIMMED, RETRIM fails with HAS_CHILDREN. */
typedef enum
{
  VHDKIT_COMPACT_FULL,       /* free space, zeros, and what the parent shows too */
  VHDKIT_COMPACT_QUICK,      /* only free space: no data is read */
  VHDKIT_COMPACT_PREZEROED,  /* zeros, and what the parent shows */
  VHDKIT_COMPACT_PRETRIMMED, /* neither: only what the tables say */
  VHDKIT_COMPACT_RETRIM, /* as QUICK, but blocks are only marked, none is moved; what is free at the end of the file is
                          * cut, as whenever an image is closed.  UNSUPPORTED where no volume's free space is known,
                          * or where the format has no mark (VHD) */
  VHDKIT_COMPACT_PUNCH, /* as FULL, but instead of moves punch holes into the container; of a fixed or raw image, too,
                          * where the free space is all that is looked for */
  VHDKIT_COMPACT_PACK, /* as FULL, and then write out all holes of the container: some hosts attach no sparse file */
} VhdkitCompactMode;

typedef struct
{
  size_t struct_size; /* sizeof (VhdkitCompactOptions) */
  unsigned parallel;  /* coroutines, 1..16; 0: 4 */
  VhdkitCompactMode mode;
  bool no_zero_scan;   /* look at no data, whatever the mode */
  bool no_block_moves; /* move nothing, only cut what is free at the end */
  bool dry_run;        /* change nothing; @image may be read-only; the stats say what would be */
  bool punch_blocks;   /* PUNCH: also where free space lies inside of blocks that stay */
  bool break_children; /* use free space although other images above this one may rely on it: they are lost */
  bool ignore_unknown; /* use it although it is not known whether some are; break_children implies it */
  bool reserved[2];
} VhdkitCompactOptions;

typedef struct
{
  int64_t blocks_allocated, blocks_dropped, blocks_moved; /* at the start; by the job */
  int64_t file_size_before, file_size_after;              /* bytes; with dry_run, about */
  int64_t block_size;                                     /* bytes; 0: an image without blocks */
  int64_t blocks_free;   /* of those dropped: partly or wholly not in use by the guest's file systems */
  int64_t blocks_zero;   /* zeros */
  int64_t blocks_same;   /* what the parent shows */
  int64_t bytes_punched; /* inside of blocks that stay, or of a fixed image */
  int64_t host_bytes_before,
      host_bytes_after; /* that the container takes; with dry_run, at most; -1: not known */
  int64_t bytes_free, bytes_zero, bytes_same; /* of what was dropped: one block may hold bytes of each kind */
  int64_t
      bytes_unmapped; /* of the container, given back because the image's tables alone say it is not needed */
} VhdkitCompactStats;

/* Shrink the container of @image's leaf, opened read-write, without changing anything that the guest uses. */
VhdkitJob *vhdkit_compact_new (VhdkitImage *image, const VhdkitCompactOptions *options, GError **error);
void vhdkit_compact_get_stats (VhdkitJob *job, VhdkitCompactStats *stats);
/* What was found on the disk by a job that has concluded, an a{sv} GVariant (a full reference of the caller's); NULL when
 * the mode does not look.  "degraded" (s): why free space was not looked for although the mode would have it, and then
 * nothing else.  "partition-table": "GPT", "MBR" or "none"; "notes": as; "volumes": aa{sv}, by offset, each
 * with "partition" (u, 0: the whole disk), "offset", "length" and "free" (x, bytes), "type", where known "label" and
 * "uuid", "inside" (s: its name, where it stands in the volume group that the volume before it holds), and where all of
 * it counts as in use "reason" (s). */
GVariant *vhdkit_compact_get_report (VhdkitJob *job);

/* --- convert ------------------------------------------------------------------------------------------- */

typedef struct
{
  size_t struct_size;  /* sizeof (VhdkitConvertOptions) */
  unsigned parallel;   /* coroutines, 1..16; 0: 8 */
  bool in_order;       /* write in the order of guest offsets */
  bool target_is_zero; /* @target is fresh and reads as zeros where it has no parent */
  bool
      above_target_parent; /* @target has a parent: copy only what differs from what it shows by allocation */
  bool copy_range;         /* try copy_file_range and extent sharing */
  int64_t sparse_bytes; /* a run of zeros this long is not written; 0: write all zeros out; multiple of 512 */
  bool break_children;  /* write although other images have @target as their parent: they are lost */
  bool
      ignore_unknown; /* write although it is not known whether some do; of a fresh target that is never asked */
  bool reserved[6];
} VhdkitConvertOptions;

/* Copy all of @source into @target (opened read-write, at least as large, same context).  What a larger @target holds
 * behind the end of @source stays; what its parent shows there is hidden.  The job fails (HAS_CHILDREN)
 * before it writes when images in the directory of @target would be broken, unless an option says otherwise: as
 * vhdkit_image_create (). */
VhdkitJob *vhdkit_convert_new (VhdkitImage *source, VhdkitImage *target, const VhdkitConvertOptions *options,
                               GError **error);

/* --- compare ------------------------------------------------------------------------------------------- */

typedef struct
{
  size_t struct_size; /* sizeof (VhdkitCompareOptions) */
  bool strict;        /* different sizes or allocation make a difference */
  bool reserved[7];
} VhdkitCompareOptions;

typedef struct
{
  bool equal;
  bool sizes_differ;        /* the rest of the larger one is then compared with zeros */
  bool allocation_differs;  /* strict: first_difference names where */
  int64_t first_difference; /* bytes, -1: none */
  int failed_side;          /* of a job that failed: 0 or 1 */
} VhdkitCompareStats;

VhdkitJob *vhdkit_compare_new (VhdkitImage *a, VhdkitImage *b, const VhdkitCompareOptions *options,
                               GError **error);
void vhdkit_compare_get_stats (VhdkitJob *job, VhdkitCompareStats *stats);

/* --- rebase -------------------------------------------------------------------------------------------- */

typedef struct
{
  size_t struct_size;      /* sizeof (VhdkitRebaseOptions) */
  bool unsafe;             /* change the link alone, whatever the two parents show */
  bool ignore_id_mismatch; /* unsafe: @parent need not have the identity that @image recorded (else
                            * PARENT_MISMATCH, with both) */
  bool reserved[2];
  unsigned parallel; /* coroutines, 1..16; 0: 16 */
} VhdkitRebaseOptions;

typedef struct
{
  int64_t bytes_copied, bytes_cloned, bytes_zeroed;
} VhdkitRebaseStats;

/* Give @image's leaf another parent: @parent, opened read-only in the same context, or none (NULL).  @image is opened
 * read-only; the job makes its leaf writable.  What a guest sees stays the same, also for children of @image: where it
 * would not, the leaf first gets what it shows now, at worst all that its parents hold.  With @unsafe it is the caller
 * who says that @parent shows the right things; @image may have been opened with VHDKIT_OPEN_NO_PARENTS then.  The
 * files of the parents, old and new, are only read.
 *
 * Refused: a @parent that is @image or has it among its ancestors, of a format that @image cannot have a parent of;
 * images of formats without parents, fixed ones.  Close @image afterwards: its handle knows the old parent alone. */
VhdkitJob *vhdkit_rebase_new (VhdkitImage *image, VhdkitImage *parent, const VhdkitRebaseOptions *options,
                              GError **error);
void vhdkit_rebase_get_stats (VhdkitJob *job, VhdkitRebaseStats *stats);

G_END_DECLS

#endif
