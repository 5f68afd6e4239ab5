/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What vhd-img commit --dry-run prints. */
#include "commit-plan.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "output.h"

static const char *const role_names[] = {
  [VHDKIT_COMMIT_ABOVE] = "above",   [VHDKIT_COMMIT_SOURCE] = "source", [VHDKIT_COMMIT_BETWEEN] = "between",
  [VHDKIT_COMMIT_TARGET] = "target", [VHDKIT_COMMIT_BELOW] = "below",
};

static const char *const fate_names[] = {
  [VHDKIT_COMMIT_STAYS] = "stays",
  [VHDKIT_COMMIT_REMOVED] = "removed",
  [VHDKIT_COMMIT_REPLACED] = "replaced",
  [VHDKIT_COMMIT_RENAMED] = "renamed",
};

static bool
is_merged (const VhdkitCommitPlanLayer *layer)
{
  return layer->role == VHDKIT_COMMIT_SOURCE || layer->role == VHDKIT_COMMIT_BETWEEN;
}

/* --- for people ----------------------------------------------------------------------------------------- */

static void
print_bytes (const char *what, int64_t bytes)
{
  g_autofree char *size = format_size (bytes);
  printf ("%s: %s (%" PRId64 " bytes)\n", what, size, bytes);
}

static void
print_time (const VhdkitCommitPlan *plan)
{
  if (plan->estimated_seconds < 0)
    return;
  g_autofree char *sample = format_size (plan->measured_bytes);
  g_autofree char *rate = format_size ((int64_t)((double)plan->measured_bytes / plan->measured_seconds));
  printf ("time: at least about %.1f s for reading, as %s of it were read at %s/s; writing is not measured\n",
          plan->estimated_seconds, sample, rate);
}

void
commit_plan_print (const VhdkitCommitPlan *plan, VhdkitChild *const *siblings)
{
  for (int i = 0; i < plan->n_layers; i++)
    {
      const VhdkitCommitPlanLayer *layer = &plan->layers[i];
      g_autofree char *name = printable (layer->filename);
      g_autofree char *bytes = is_merged (layer) ? format_size (layer->bytes) : NULL;
      printf ("%-8s %s%s%s%s%s\n", role_names[layer->role], name, bytes != NULL ? ", gives " : "",
              bytes != NULL ? bytes : "", layer->fate != VHDKIT_COMMIT_STAYS ? ", will be " : "",
              layer->fate != VHDKIT_COMMIT_STAYS ? fate_names[layer->fate] : "");
    }
  for (VhdkitChild *const *sibling = siblings; *sibling != NULL; sibling++)
    {
      g_autofree char *name = printable ((*sibling)->filename);
      if ((*sibling)->problem != NULL)
        {
          g_autofree char *problem = printable ((*sibling)->problem);
          printf ("%-8s %s: %s\n", "unknown", name, problem);
          continue;
        }
      g_autofree char *parent = printable (plan->layers[(*sibling)->layer].filename);
      printf ("%-8s %s, of %s\n", "child", name, parent);
    }
  for (char **child = plan->relinked; *child != NULL; child++)
    {
      g_autofree char *name = printable (*child);
      printf ("%-8s %s, to the target\n", "relink", name);
    }
  if (plan->already_merged)
    {
      printf ("merged by an earlier run: nothing is left but what follows\n");
      return;
    }
  print_bytes ("to copy, at most", plan->bytes_to_copy);
  print_bytes ("to share, estimated", plan->bytes_to_clone_estimate);
  print_bytes ("to make zeros", plan->bytes_to_zero);
  print_bytes ("virtual size of the target", plan->virtual_size_before);
  if (plan->virtual_size_after != plan->virtual_size_before)
    print_bytes ("virtual size afterwards", plan->virtual_size_after);
  print_bytes ("host space needed, expected", plan->host_bytes_expected);
  print_bytes ("host space needed, at worst", plan->host_bytes_worst);
  if (plan->host_bytes_free >= 0)
    print_bytes ("host space free", plan->host_bytes_free);
  if (plan->host_bytes_to_cut > 0)
    print_bytes ("host space that an interrupted run left, cut first", plan->host_bytes_to_cut);
  print_time (plan);
}

/* --- for programs --------------------------------------------------------------------------------------- */

static void
print_layers (JsonWriter *json, const VhdkitCommitPlan *plan)
{
  json_begin (json, "layers", '[');
  for (int i = 0; i < plan->n_layers; i++)
    {
      const VhdkitCommitPlanLayer *layer = &plan->layers[i];
      json_begin (json, NULL, '{');
      json_string (json, "filename", layer->filename);
      json_string (json, "role", role_names[layer->role]);
      json_string (json, "fate", fate_names[layer->fate]);
      if (is_merged (layer))
        json_int (json, "bytes", layer->bytes);
      json_end (json, '}');
    }
  json_end (json, ']');
}

static void
print_siblings (JsonWriter *json, VhdkitChild *const *siblings)
{
  json_begin (json, "siblings", '[');
  for (VhdkitChild *const *sibling = siblings; *sibling != NULL; sibling++)
    {
      if ((*sibling)->problem != NULL)
        continue;
      json_begin (json, NULL, '{');
      json_string (json, "filename", (*sibling)->filename);
      json_string (json, "format", (*sibling)->format);
      json_int (json, "parent-layer", (*sibling)->layer);
      json_end (json, '}');
    }
  json_end (json, ']');
  json_begin (json, "siblings-unknown", '[');
  for (VhdkitChild *const *sibling = siblings; *sibling != NULL; sibling++)
    {
      if ((*sibling)->problem == NULL)
        continue;
      json_begin (json, NULL, '{');
      json_string (json, "filename", (*sibling)->filename);
      json_string (json, "reason", (*sibling)->problem);
      json_end (json, '}');
    }
  json_end (json, ']');
}

void
commit_plan_print_json (const VhdkitCommitPlan *plan, VhdkitChild *const *siblings)
{
  JsonWriter json = { 0 };
  json_begin (&json, NULL, '{');
  print_layers (&json, plan);
  print_siblings (&json, siblings);
  json_begin (&json, "relinked", '[');
  for (char **child = plan->relinked; *child != NULL; child++)
    json_string (&json, NULL, *child);
  json_end (&json, ']');
  json_bool (&json, "already-merged", plan->already_merged);
  json_int (&json, "bytes-to-copy", plan->bytes_to_copy);
  json_int (&json, "bytes-to-clone-estimate", plan->bytes_to_clone_estimate);
  json_int (&json, "bytes-to-zero", plan->bytes_to_zero);
  json_int (&json, "virtual-size-before", plan->virtual_size_before);
  json_int (&json, "virtual-size-after", plan->virtual_size_after);
  json_int (&json, "host-bytes-worst", plan->host_bytes_worst);
  json_int (&json, "host-bytes-expected", plan->host_bytes_expected);
  if (plan->host_bytes_free >= 0)
    json_int (&json, "host-bytes-free", plan->host_bytes_free);
  else
    json_null (&json, "host-bytes-free");
  json_int (&json, "host-bytes-to-cut", plan->host_bytes_to_cut);
  json_bool (&json, "enough-space", plan->enough_space);
  if (plan->target_problem != NULL)
    json_string (&json, "target-problem", plan->target_problem);
  else
    json_null (&json, "target-problem");
  json_int (&json, "measured-bytes", plan->measured_bytes);
  json_seconds (&json, "measured-seconds", plan->measured_seconds);
  json_seconds (&json, "estimated-seconds", plan->estimated_seconds < 0 ? NAN : plan->estimated_seconds);
  json_end (&json, '}');
  json_finish (&json);
}
