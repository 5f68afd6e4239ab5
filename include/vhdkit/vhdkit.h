/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libvhdkit: read, write, merge and compact virtual hard disks.  Everything an embedder needs. */
#ifndef VHDKIT_H
#define VHDKIT_H

#include <vhdkit/error.h>
#include <vhdkit/image.h>
#include <vhdkit/job.h>
#include <vhdkit/version.h>

#endif
