/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands of vhd-io. */
#include "vhd-io.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"

/* One request is one buffer. */
#define MAX_REQUEST_BYTES (INT64_C (2147483647) / 512 * 512)

IoSession io_session;

static const OptionDef no_options[] = { OPTIONS_END };

/* --- operands ------------------------------------------------------------------------------------------- */

static bool
operand_size (const char *text, const char *what, int64_t *bytes)
{
  if (parse_size (text, bytes))
    return true;
  report (NULL, "%s: '%s' is not a size (digits, then k, M, G, T, P or E)", what, text);
  return false;
}

/* OFFSET and LENGTH; a request that needs a buffer is limited. */
static bool
operand_range (char **operands, IoRequestParams *params, bool buffered)
{
  if (!operand_size (operands[0], "offset", &params->offset)
      || !operand_size (operands[1], "length", &params->bytes))
    return false;
  if (!buffered || params->bytes <= MAX_REQUEST_BYTES)
    return true;
  report (NULL, "length: %s is more than one request can have (%" PRId64 ")", operands[1], MAX_REQUEST_BYTES);
  return false;
}

/* --- read and write ------------------------------------------------------------------------------------- */

typedef struct
{
  int64_t pattern, expected_at, expected_bytes;
  bool dump, quiet, machine_output;
} ReadArgs;

static const ReadArgs read_defaults = { .pattern = -1, .expected_bytes = -1 };

static const OptionDef read_options[] = {
  { 'P', NULL, "BYTE", OPTION_NUMBER, OPTION_MAIN, offsetof (ReadArgs, pattern),
    "Expect this byte everywhere; else the exit status is 1", 0, 255 },
  { 's', NULL, "OFFSET", OPTION_SIZE, OPTION_MAIN, offsetof (ReadArgs, expected_at),
    "With -P: expect it from this place of the range on" },
  { 'l', NULL, "LENGTH", OPTION_SIZE, OPTION_MAIN, offsetof (ReadArgs, expected_bytes),
    "With -P: expect it in so many bytes" },
  { 'v', NULL, NULL, OPTION_FLAG, OPTION_MAIN, offsetof (ReadArgs, dump), "Print what was read" },
  { 'q', NULL, NULL, OPTION_FLAG, OPTION_MAIN, offsetof (ReadArgs, quiet), "Print no statistics" },
  { 'C', NULL, NULL, OPTION_FLAG, OPTION_MAIN, offsetof (ReadArgs, machine_output),
    "Statistics for programs: bytes, requests, seconds, bytes and requests per second" },
  OPTIONS_END,
};

static int
run_read (const Command *command, void *opaque, char **operands)
{
  const ReadArgs *args = opaque;
  IoRequestParams params = {
    .kind = IO_READ,
    .pattern = args->pattern,
    .expected_at = args->expected_at,
    .expected_bytes = args->expected_bytes,
    .dump = args->dump,
    .quiet = args->quiet,
    .machine_output = args->machine_output,
    .async = g_str_has_prefix (command->name, "aio_"),
  };
  if (!operand_range (operands, &params, true))
    return EXIT_FAILURE;
  if (params.pattern < 0 && (params.expected_at != 0 || params.expected_bytes >= 0))
    {
      report (NULL, "-s and -l need -P");
      return EXIT_FAILURE;
    }
  if (params.expected_at > params.bytes
      || (params.expected_bytes >= 0 && params.expected_bytes > params.bytes - params.expected_at))
    {
      report (NULL, "the pattern is longer than what is read");
      return EXIT_FAILURE;
    }
  io_request (&params);
  return EXIT_SUCCESS;
}

typedef struct
{
  int64_t pattern;
  const char *source;
  bool zeroes, may_unmap, fua, quiet, machine_output;
} WriteArgs;

static const WriteArgs write_defaults = { .pattern = -1 };

static const OptionDef write_options[] = {
  { 'P', NULL, "BYTE", OPTION_NUMBER, OPTION_MAIN, offsetof (WriteArgs, pattern),
    "Write this byte; 0xcd when not given", 0, 255 },
  { 's', NULL, "FILE", OPTION_STRING, OPTION_MAIN, offsetof (WriteArgs, source),
    "Write the bytes of FILE, over and over" },
  { 'z', NULL, NULL, OPTION_FLAG, OPTION_MAIN, offsetof (WriteArgs, zeroes),
    "Write zeros, as one request without data" },
  { 'u', NULL, NULL, OPTION_FLAG, OPTION_MAIN, offsetof (WriteArgs, may_unmap),
    "With -z: space may be given back" },
  { 'f', NULL, NULL, OPTION_FLAG, OPTION_MAIN, offsetof (WriteArgs, fua), "Durable when the command ends" },
  { 'q', NULL, NULL, OPTION_FLAG, OPTION_MAIN, offsetof (WriteArgs, quiet), "Print no statistics" },
  { 'C', NULL, NULL, OPTION_FLAG, OPTION_MAIN, offsetof (WriteArgs, machine_output),
    "Statistics for programs" },
  OPTIONS_END,
};

static int
run_write (const Command *command, void *opaque, char **operands)
{
  const WriteArgs *args = opaque;
  IoRequestParams params = {
    .kind = args->zeroes ? IO_WRITE_ZEROES : IO_WRITE,
    .pattern = args->pattern >= 0 ? args->pattern : 0xcd,
    .source = args->source,
    .may_unmap = args->may_unmap,
    .fua = args->fua,
    .quiet = args->quiet,
    .machine_output = args->machine_output,
    .async = g_str_has_prefix (command->name, "aio_"),
  };
  const char *complaint = NULL;
  if ((args->pattern >= 0) + args->zeroes + (args->source != NULL) > 1)
    complaint = "-P, -s and -z exclude each other";
  else if (args->may_unmap && !args->zeroes)
    complaint = "-u needs -z";
  if (complaint != NULL)
    {
      report (NULL, "%s", complaint);
      return EXIT_FAILURE;
    }
  if (!operand_range (operands, &params, !args->zeroes))
    return EXIT_FAILURE;
  io_request (&params);
  return EXIT_SUCCESS;
}

typedef struct
{
  bool quiet, machine_output;
} DiscardArgs;

static const OptionDef discard_options[] = {
  { 'q', NULL, NULL, OPTION_FLAG, OPTION_MAIN, offsetof (DiscardArgs, quiet), "Print no statistics" },
  { 'C', NULL, NULL, OPTION_FLAG, OPTION_MAIN, offsetof (DiscardArgs, machine_output),
    "Statistics for programs" },
  OPTIONS_END,
};

static int
run_discard (const Command *command, void *opaque, char **operands)
{
  const DiscardArgs *args = opaque;
  IoRequestParams params = {
    .kind = IO_DISCARD,
    .pattern = -1,
    .quiet = args->quiet,
    .machine_output = args->machine_output,
    .async = g_str_has_prefix (command->name, "aio_"),
  };
  if (!operand_range (operands, &params, false))
    return EXIT_FAILURE;
  io_request (&params);
  return EXIT_SUCCESS;
}

static int
run_aio_flush (const Command *command, void *opaque, char **operands)
{
  io_drain ();
  return EXIT_SUCCESS;
}

static int
run_flush (const Command *command, void *opaque, char **operands)
{
  int ret = vhdkit_image_flush (io_session.image);
  if (ret == 0)
    return EXIT_SUCCESS;
  report (io_session.path, "flush failed: %s", g_strerror (-ret));
  return EXIT_FAILURE;
}

/* --- the image ------------------------------------------------------------------------------------------ */

static int
run_truncate (const Command *command, void *opaque, char **operands)
{
  int64_t bytes;
  g_autoptr (GError) error = NULL;
  if (!operand_size (operands[0], "size", &bytes))
    return EXIT_FAILURE;
  io_drain ();
  if (!io_may_change ())
    return EXIT_FAILURE;
  if (vhdkit_image_truncate (io_session.image, bytes, &error))
    return EXIT_SUCCESS;
  report_error (io_session.path, error);
  return EXIT_FAILURE;
}

static int
run_length (const Command *command, void *opaque, char **operands)
{
  g_autofree char *text = format_size_exact ((double)vhdkit_image_get_size (io_session.image));
  printf ("%s\n", text);
  return EXIT_SUCCESS;
}

static int
run_info (const Command *command, void *opaque, char **operands)
{
  VhdkitLayerInfo info = { 0 };
  g_autoptr (GError) error = NULL;
  if (!vhdkit_image_get_layer_info (io_session.image, 0, &info, &error))
    {
      report_error (io_session.path, error);
      return EXIT_FAILURE;
    }
  g_autofree char *block_size = format_size_exact ((double)info.block_size);
  printf ("format name: %s\n", info.format);
  printf ("virtual size: %" PRId64 " bytes\n", info.virtual_size);
  if (info.block_size > 0)
    printf ("cluster size: %s\n", block_size);
  printf ("images in the chain: %d\n", vhdkit_image_get_depth (io_session.image));
  vhdkit_layer_info_clear (&info);
  return EXIT_SUCCESS;
}

/* How far what is true at @offset goes on, up to @end: *@present is whether some image of the chain holds it.
 * 0 after a message. */
static int64_t
run_of_same (int64_t offset, int64_t end, bool *present)
{
  int64_t start = offset;
  while (offset < end)
    {
      VhdkitExtent extent;
      int ret = vhdkit_image_get_extent (io_session.image, offset, end - offset, &extent);
      if (ret < 0)
        {
          report (io_session.path, "offset %" PRId64 ": %s", offset, g_strerror (-ret));
          return 0;
        }
      if (offset > start && extent.present != *present)
        break;
      *present = extent.present;
      offset += extent.bytes;
    }
  return offset - start;
}

static int
run_map (const Command *command, void *opaque, char **operands)
{
  int64_t end = vhdkit_image_get_size (io_session.image);
  for (int64_t offset = 0, bytes; offset < end; offset += bytes)
    {
      bool present = false;
      bytes = run_of_same (offset, end, &present);
      if (bytes == 0)
        return EXIT_FAILURE;
      g_autofree char *bytes_text = format_size_exact ((double)bytes);
      g_autofree char *offset_text = format_size_exact ((double)offset);
      printf ("%s (0x%" PRIx64 ") bytes %s allocated at offset %s (0x%" PRIx64 ")\n", bytes_text, bytes,
              present ? "   " : "not", offset_text, offset);
    }
  return EXIT_SUCCESS;
}

static int
run_alloc (const Command *command, void *opaque, char **operands)
{
  int64_t offset, bytes = 512;
  if (!operand_size (operands[0], "offset", &offset)
      || (operands[1] != NULL && !operand_size (operands[1], "length", &bytes)))
    return EXIT_FAILURE;
  int64_t size = vhdkit_image_get_size (io_session.image);
  if (offset > size || bytes > size - offset)
    {
      report (io_session.path, "the range ends behind the image, at %" PRId64, size);
      return EXIT_FAILURE;
    }
  int64_t allocated = 0;
  for (int64_t at = offset, n; at < offset + bytes; at += n)
    {
      bool present = false;
      n = run_of_same (at, offset + bytes, &present);
      if (n == 0)
        return EXIT_FAILURE;
      allocated += present ? n : 0;
    }
  g_autofree char *text = format_size_exact ((double)offset);
  printf ("%" PRId64 "/%" PRId64 " bytes allocated at offset %s\n", allocated, bytes, text);
  return EXIT_SUCCESS;
}

/* --- the session ---------------------------------------------------------------------------------------- */

static int
run_sleep (const Command *command, void *opaque, char **operands)
{
  int64_t milliseconds;
  if (!operand_size (operands[0], "milliseconds", &milliseconds))
    return EXIT_FAILURE;
  gint64 end = g_get_monotonic_time () + MIN (milliseconds, 86400000) * 1000;
  /* Requests in flight go on. */
  while (g_get_monotonic_time () < end)
    if (!vhdkit_context_iterate (tool_context (), false))
      g_usleep (1000);
  return EXIT_SUCCESS;
}

static int
run_quit (const Command *command, void *opaque, char **operands)
{
  io_session.quit = true;
  return EXIT_SUCCESS;
}

static int
run_abort (const Command *command, void *opaque, char **operands)
{
  fflush (stdout);
  raise (SIGKILL);
  return EXIT_FAILURE;
}

static const Command *
find_command (const char *name)
{
  for (const Command *const *command = io_commands; *command != NULL; command++)
    if (command_has_name (*command, name))
      return *command;
  report (NULL, "unknown command '%s'; try 'help'", name);
  return NULL;
}

static void
print_list (int indent)
{
  for (const Command *const *c = io_commands; *c != NULL; c++)
    {
      int column = printf ("%*s%s %s", indent, "", (*c)->name, (*c)->operands);
      printf ("%*s%s\n", column < 28 + indent ? 28 + indent - column : 1, "", (*c)->summary);
    }
}

static int
run_help (const Command *command, void *opaque, char **operands)
{
  if (operands[0] != NULL)
    {
      const Command *subject = find_command (operands[0]);
      if (subject == NULL)
        return EXIT_FAILURE;
      command_print_help (subject, NULL);
      return EXIT_SUCCESS;
    }
  print_list (0);
  printf ("'help COMMAND' shows its options.\n");
  return EXIT_SUCCESS;
}

void
io_print_commands (void)
{
  printf ("\nCommands:\n");
  print_list (2);
  printf ("  -c 'help COMMAND' shows the options of one.\n");
}

void
io_run_line (const char *line)
{
  g_autoptr (GError) error = NULL;
  g_auto (GStrv) argv = NULL;
  int argc;
  while (g_ascii_isspace (*line))
    line++;
  if (*line == '\0' || *line == '#')
    return;
  if (!g_shell_parse_argv (line, &argc, &argv, &error))
    {
      report (NULL, "'%s': %s", line, error->message);
      io_session.failed = true;
      return;
    }
  const Command *command = find_command (argv[0]);
  /* Sorting out options moves the strings about; the vector must still free each of them. */
  g_autofree char **order = g_new0 (char *, argc + 1);
  memcpy (order, argv, sizeof (char *) * (size_t)argc);
  if (command == NULL || command_execute (command, NULL, argc, order) != EXIT_SUCCESS)
    io_session.failed = true;
}

/* clang-format off */
#define SIMPLE(variable, name_, operands_, min, max, run_, summary_, description_)                            \
  static const Command variable = {                                                                           \
    .name = name_, .summary = summary_, .operands = operands_, .description = description_,                   \
    .options = no_options, .min_operands = min, .max_operands = max, .run = run_,                             \
  }
#define REQUEST(variable, name_, options_, args_, defaults_, run_, summary_, description_)                    \
  static const Command variable = {                                                                           \
    .name = name_, .summary = summary_, .operands = "OFFSET LENGTH", .description = description_,             \
    .options = options_, .args_size = sizeof (args_), .defaults = defaults_,                                  \
    .min_operands = 2, .max_operands = 2, .run = run_,                                                        \
  }

REQUEST (io_read, "read", read_options, ReadArgs, &read_defaults, run_read,
         "read a range", "Reads a range, and says how long that took.");
REQUEST (io_write, "write", write_options, WriteArgs, &write_defaults, run_write,
         "write a range", "Writes a range, and says how long that took.");
REQUEST (io_discard, "discard", discard_options, DiscardArgs, NULL, run_discard,
         "say that a range is no longer needed",
         "A hint: afterwards the range reads as before or as zeros.");
REQUEST (io_aio_read, "aio_read", read_options, ReadArgs, &read_defaults, run_read,
         "read a range, without waiting", "As read; the next command starts at once.");
REQUEST (io_aio_write, "aio_write", write_options, WriteArgs, &write_defaults, run_write,
         "write a range, without waiting", "As write; the next command starts at once.");
REQUEST (io_aio_discard, "aio_discard", discard_options, DiscardArgs, NULL, run_discard,
         "discard a range, without waiting", "As discard; the next command starts at once.");
SIMPLE (io_aio_flush, "aio_flush", "", 0, 0, run_aio_flush, "wait for all requests",
        "Waits until no request is in flight. The end of the program does so as well.");
SIMPLE (io_flush, "flush", "", 0, 0, run_flush, "make what was written durable",
        "What was written before, by requests that have ended, is on stable storage when the command ends.");
SIMPLE (io_truncate, "truncate", "SIZE", 1, 1, run_truncate, "change the virtual size",
        "Changes the virtual size; what is new reads as zeros.");
SIMPLE (io_length, "length", "", 0, 0, run_length, "print the virtual size", "Prints the virtual size.");
SIMPLE (io_info, "info", "", 0, 0, run_info, "print format and sizes", "Prints format, sizes and depth of the chain.");
SIMPLE (io_map, "map", "", 0, 0, run_map, "print which ranges are allocated",
        "Prints the ranges that some image of the chain holds, and those that none does.");
SIMPLE (io_alloc, "alloc", "OFFSET [LENGTH]", 1, 2, run_alloc, "print how much of a range is allocated",
        "Prints how much of a range (512 bytes when not given) some image of the chain holds.");
SIMPLE (io_sleep, "sleep", "MILLISECONDS", 1, 1, run_sleep, "wait", "Waits; requests in flight go on.");
SIMPLE (io_help, "help", "[COMMAND]", 0, 1, run_help, "list the commands, or the options of one",
        "Lists the commands, or the options of one.");
SIMPLE (io_abort, "abort", "", 0, 0, run_abort, "die without closing the image",
        "Kills the program where it stands, as a crash would.");
SIMPLE (io_quit, "quit", "", 0, 0, run_quit, "end the program", "Ends the program once no request is in flight.");
/* clang-format on */

const Command *const io_commands[] = {
  &io_read,      &io_write, &io_discard, &io_aio_read, &io_aio_write, &io_aio_discard,
  &io_aio_flush, &io_flush, &io_map,     &io_alloc,    &io_truncate,  &io_length,
  &io_info,      &io_sleep, &io_help,    &io_abort,    &io_quit,      NULL,
};
