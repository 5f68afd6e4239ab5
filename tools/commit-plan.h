/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What vhd-img commit --dry-run prints. */
#ifndef TOOLS_COMMIT_PLAN_H
#define TOOLS_COMMIT_PLAN_H

#include <vhdkit/vhdkit.h>

/* @siblings: other images that depend on what the merge changes, NULL-terminated. */
void commit_plan_print (const VhdkitCommitPlan *plan, VhdkitChild *const *siblings);
void commit_plan_print_json (const VhdkitCommitPlan *plan, VhdkitChild *const *siblings);

#endif
