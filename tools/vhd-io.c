/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-io: single requests on an image, for scripts and tests. */
#include "vhd-io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "children.h"
#include "progress.h"

const char *program_name = "vhd-io";

typedef struct
{
  ImageOptions image;
  GPtrArray *commands;
  bool concurrent, read_only, no_cache, break_children, ignore_unknown;
  VhdkitCacheMode cache;
} IoArgs;

static const OptionDef options[] = {
  { 'c', "cmd", "COMMAND", OPTION_LIST, OPTION_MAIN, offsetof (IoArgs, commands),
    "Run COMMAND; may be repeated. Without it, commands are read from standard input, one a line" },
  { 0, "concurrent", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (IoArgs, concurrent),
    "read, write and discard do not wait: all of them run at the same time, up to the next aio_flush" },
  OPTIONS_FORMAT (IoArgs, image),
  { 'r', "read-only", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (IoArgs, read_only), "Open for reading only" },
  { 't', "cache", "MODE", OPTION_CACHE, OPTION_MAIN, offsetof (IoArgs, cache),
    "Host cache mode: writeback (default), none, writethrough, directsync, unsafe" },
  { 'n', "nocache", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (IoArgs, no_cache), "The same as -t none" },
  { 'i', "aio", "ENGINE", OPTION_STRING, OPTION_MAIN, OPTION_AT (IoArgs, image, aio),
    "I/O engine: threads, native or io_uring" },
  OPTIONS_WRITE_CHILDREN (IoArgs),
  OPTIONS_SHARE (IoArgs, image),
  OPTIONS_PARENT (IoArgs, image),
  OPTIONS_TESTING (IoArgs, image),
  OPTIONS_END,
};

static void
run_commands (GPtrArray *commands)
{
  for (guint i = 0; i + 1 < commands->len && !io_session.quit; i++)
    io_run_line (g_ptr_array_index (commands, i));
}

static void
run_standard_input (void)
{
  bool interactive = isatty (STDIN_FILENO) == 1;
  char *line = NULL;
  size_t size = 0;
  while (!io_session.quit)
    {
      if (interactive)
        {
          printf ("vhd-io> ");
          fflush (stdout);
        }
      ssize_t length = getline (&line, &size, stdin);
      if (length < 0)
        break;
      if (length > 0 && line[length - 1] == '\n')
        line[length - 1] = '\0';
      io_run_line (line);
    }
  free (line);
}

static int
run (const Command *command, void *opaque, char **operands)
{
  const IoArgs *args = opaque;
  VhdkitCacheMode cache = args->no_cache ? VHDKIT_CACHE_NONE : args->cache;
  io_session.path = operands[0];
  io_session.concurrent = args->concurrent;
  io_session.break_children = args->break_children;
  io_session.ignore_unknown = args->ignore_unknown;
  io_session.image = tool_open (operands[0], &args->image, args->read_only ? 0 : VHDKIT_OPEN_RDWR, cache);
  if (io_session.image == NULL)
    return EXIT_FAILURE;
  tool_print_warnings (io_session.image);
  if (args->commands != NULL)
    run_commands (args->commands);
  else
    run_standard_input ();
  io_drain ();
  if (!tool_close (g_steal_pointer (&io_session.image), operands[0]))
    io_session.failed = true;
  return io_session.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

static const Command self = {
  .name = "vhd-io",
  .summary = "single reads and writes on a virtual hard disk image",
  .operands = "FILE",
  .description = "",
  .options = options,
  .args_size = sizeof (IoArgs),
  .min_operands = 1,
  .max_operands = 1,
  .print_more_help = io_print_commands,
  .run = run,
};

static const ManSection sections[] = {
  { "Exit status", "0 if all commands succeeded and all patterns were found, else 1. A command that fails "
                   "does not keep the next "
                   "ones from being run." },
  { "Examples", "Write 64 KiB, read it back, see that it is what was written:\n\n"
                "  vhd-io -c 'write -P 7 1M 64k' -c 'read -P 7 1M 64k' disk.vhd\n\n"
                "Overlapping writes, all in flight at once:\n\n"
                "  vhd-io --concurrent -c 'write -P 1 0 1M' -c 'write -P 2 512k 1M' disk.vhd" },
  { "See also", "vhd-img(1), qemu-io(1)" },
  { NULL, NULL },
};

static const Program program = {
  .name = "vhd-io",
  .summary = "single reads and writes on a virtual hard disk image",
  .synopsis = "vhd-io [OPTION]... [-c COMMAND]... FILE",
  .description =
      "vhd-io opens an image and runs commands on it, each one request or question; for scripts and tests. "
      "Commands and output follow qemu-io.\n\n"
      "Sizes are bytes, in decimal or as 0x and hexadecimal digits, with an optional suffix k, M, G, T, P "
      "or E. A line that starts with # is ignored.",
  .self = &self,
  .commands = io_commands,
  .sections = sections,
};

int
main (int argc, char **argv)
{
  signals_init ();
  const char *first = argc > 1 ? argv[1] : "";
  if (strcmp (first, "--print-man") == 0 || strcmp (first, "--print-options") == 0)
    {
      if (strcmp (first, "--print-man") == 0)
        man_print (&program);
      else
        man_print_options (&program);
      return finish_output (EXIT_SUCCESS);
    }
  if (strcmp (first, "--version") == 0 || strcmp (first, "-V") == 0)
    {
      printf ("vhd-io version %s\n", VHDKIT_VERSION);
      return finish_output (EXIT_SUCCESS);
    }
  return command_execute (&self, "", argc, argv);
}
