/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-io: the open image and its commands. */
#ifndef TOOLS_VHD_IO_H
#define TOOLS_VHD_IO_H

#include "tool.h"

/* What the commands work on; one to a process. */
typedef struct
{
  VhdkitImage *image;
  const char *path;
  bool concurrent;                     /* read, write and discard do not wait for their end */
  bool break_children, ignore_unknown; /* do not ask whether others rely on the content */
  bool quit;
  int in_flight; /* requests */
  bool failed;   /* something did: the exit status */
} IoSession;

extern IoSession io_session;

extern const Command *const io_commands[]; /* NULL-terminated */

/* Runs one command line. */
void io_run_line (const char *line);
/* The list of commands, for the program's own help. */
void io_print_commands (void);
/* Waits for every request in flight. */
void io_drain (void);
/* Whether the content may be changed; looked for before the first change.  false after a message. */
bool io_may_change (void);

/* The requests behind the commands (io-requests.c). */
typedef enum
{
  IO_READ,
  IO_WRITE,
  IO_WRITE_ZEROES,
  IO_DISCARD,
} IoKind;

typedef struct
{
  IoKind kind;
  int64_t offset, bytes;
  bool quiet, machine_output;
  bool dump;              /* reads: print what was read */
  int64_t pattern;        /* reads: what to expect, -1: nothing; writes: what to write */
  int64_t expected_at;    /* reads: where in the buffer the pattern starts … */
  int64_t expected_bytes; /* … and how long it is, -1: to the end */
  const char *source;     /* writes: repeat the bytes of this file */
  bool may_unmap, fua, async;
} IoRequestParams;

/* Starts a request, and waits for it unless it is async.  Failures are told and set io_session.failed. */
void io_request (const IoRequestParams *params);

#endif
