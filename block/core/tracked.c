/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that must not run side by side.
 *
 * Plain requests may overlap.  A serialising one (read-modify-write, a change of length, or on demand) runs
 * alone on its range.  A request waits for conflicting *older* ones only, and is in the list while it waits:
 * so nobody is overtaken, nobody starves, and there is no cycle to deadlock in.
 *
 * On the way in and out (core-int.h) this costs a few stores as long as no serialising request is about.
 */
#include "core-int.h"

static bool
has_older_conflict (const BdrvTrackedRequest *req)
{
  for (const BdrvTrackedRequest *older = req->older; older; older = older->older)
    if ((req->serialising || older->serialising) && older->offset < req->end && req->offset < older->end)
      return true;
  return false;
}

void coroutine_fn
bdrv_co_tracked_wait (BdrvNode *node, BdrvTrackedRequest *req)
{
  while (has_older_conflict (req))
    {
      node->waiting++;
      co_queue_wait (&node->request_queue, NULL);
      node->waiting--;
    }
}

void
bdrv_wake_requests (BdrvNode *node)
{
  co_queue_restart_all (&node->request_queue);
}
