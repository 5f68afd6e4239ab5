/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-img: dispatch, general help, the words of the manual page. */
#include "vhd-img.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "progress.h"

const char *program_name = "vhd-img";

static const Command *const commands[] = {
  &cmd_bench,  &cmd_check, &cmd_commit, &cmd_compact, &cmd_compare, &cmd_convert,
  &cmd_create, &cmd_info,  &cmd_map,    &cmd_rebase,  NULL,
};

static const ManSection sections[] = {
  { "Sizes", "Sizes are bytes, in decimal or as 0x and hexadecimal digits. A suffix k, M, G, T, P or E "
             "multiplies by a "
             "power of 1024; with a suffix the number may have a fraction (1.5G)." },
  { "Formats",
    "vhdx: images of Hyper-V, Azure, WSL2 and Docker Desktop, checkpoints (AVHDX) included, fixed, dynamic "
    "and differencing. "
    "vhd (alias vpc): Virtual PC, Hyper-V and XenServer images, fixed, dynamic and differencing. "
    "raw: the bytes "
    "of the disk, nothing else. The format of an image is found by its content, never by its "
    "name; a file with "
    "no sign of a format is raw, which -f FMT refuses. \"vhd-img create -f FMT -o help\" lists "
    "the options that "
    "images of a format are made with." },
  { "Parents", "A differencing image names its parent. The file is used only if it is a regular file whose "
               "identity is the "
               "one the image recorded. A parent that has no identity (raw) is opened with --raw-parent, or "
               "when the user "
               "names it with --parent. Paths of Windows drives are looked for only below the folder that "
               "--map-drive gives "
               "for the drive. --confine keeps every file of a chain below one folder, for services that "
               "work on images of "
               "strangers." },
  { "Windows",
    "Files of images made here have holes where nothing is stored. Windows refuses to attach an image whose "
    "file is sparse: copy it there without holes (cp --sparse=never). Files that Hyper-V tracks changes in, "
    "FILE.rct and FILE.mrt, are stale as soon as anything but Hyper-V writes to FILE, of which every command "
    "that does so warns." },
  { "Signals",
    "SIGUSR1 prints the progress of convert, compare, commit, compact and rebase. SIGINT and SIGTERM stop "
    "them in a "
    "safe "
    "place: the images are consistent, and commit, compact and rebase finish their work when they are run "
    "again. A "
    "second signal ends the program at once; that is as safe as a crash, and a crash leaves nothing that a "
    "second run does not finish." },
  { "Exit status", "0 for success, 1 for failure, 128 plus the number of the signal for a job that was "
                   "stopped. check: 0 the "
                   "image is sound, 1 the check could not be done (the file cannot be read, or bears no sign "
                   "of its format), 2 the "
                   "image is corrupt, be it too damaged to be opened, 3 it has leaked "
                   "space and is sound "
                   "otherwise, 63 the format has no check. compare: 0 same content, 1 different content, 2 "
                   "an image could not "
                   "be opened or the command line is wrong, 4 an image could not be read." },
  { "Examples", "Merge the uppermost of four images down to the base, then shrink the base:\n\n"
                "  vhd-img commit -p --depth 3 leaf.avhdx\n"
                "  vhd-img compact -p base.vhdx\n\n"
                "Tell an image where its parent is now, after the chain was copied to another folder:\n\n"
                "  vhd-img rebase -u -b base.vhdx leaf.avhdx\n\n"
                "Show what a chain is made of:\n\n"
                "  vhd-img info --backing-chain leaf.avhdx\n\n"
                "Make a fixed image of a raw one:\n\n"
                "  vhd-img convert -O vhdx -o subformat=fixed disk.raw disk.vhdx" },
  { "See also", "vhd-io(1), qemu-img(1)" },
  { NULL, NULL },
};

static const Program program = {
  .name = "vhd-img",
  .summary = "work on virtual hard disk images",
  .synopsis = "vhd-img COMMAND [OPTION]... FILE...",
  .description = "vhd-img creates, inspects, converts, checks, merges and compacts virtual hard disk images "
                 "and chains of "
                 "differencing images. Commands, options, output and exit statuses follow qemu-img where it "
                 "has them.\n\n"
                 "Merging (commit) and compaction work in place, may be interrupted at any instant, and may "
                 "be run again.",
  .commands = commands,
  .sections = sections,
};

static void
print_help (void)
{
  printf ("Usage: %s\n", program.synopsis);
  printf ("Work on virtual hard disk images.\n\nCommands:\n");
  for (const Command *const *command = commands; *command != NULL; command++)
    {
      int column = printf ("  %s %s", (*command)->name, (*command)->operands);
      printf ("%*s%s\n", column < 34 ? 34 - column : 1, "", (*command)->summary);
    }
  printf ("\nOptions:\n  -h, --help      this help; after a command: its options\n"
          "  -V, --version   the version\n\nFormats: ");
  for (const VhdkitFormatInfo *const *format = vhdkit_list_formats (); *format != NULL; format++)
    printf ("%s%s", format != vhdkit_list_formats () ? ", " : "", (*format)->name);
  printf ("\n");
}

int
main (int argc, char **argv)
{
  signals_init ();
  if (argc < 2)
    {
      report (NULL, "a command is missing");
      fprintf (stderr, "Try 'vhd-img --help' for more information.\n");
      return EXIT_FAILURE;
    }
  const char *name = argv[1];
  if (strcmp (name, "--help") == 0 || strcmp (name, "-h") == 0)
    {
      print_help ();
      return finish_output (EXIT_SUCCESS);
    }
  if (strcmp (name, "--version") == 0 || strcmp (name, "-V") == 0)
    {
      printf ("vhd-img version %s\n", VHDKIT_VERSION);
      return finish_output (EXIT_SUCCESS);
    }
  if (strcmp (name, "--print-man") == 0)
    {
      man_print (&program);
      return finish_output (EXIT_SUCCESS);
    }
  if (strcmp (name, "--print-options") == 0)
    {
      man_print_options (&program);
      return finish_output (EXIT_SUCCESS);
    }
  for (const Command *const *command = commands; *command != NULL; command++)
    if (command_has_name (*command, name))
      return command_execute (*command, "vhd-img ", argc - 1, argv + 1);
  report (NULL, name[0] == '-' ? "unknown option '%s'" : "unknown command '%s'", name);
  if (strcmp (name, "resize") == 0)
    fprintf (stderr, "Disks grow by vhd-io -c 'truncate SIZE' FILE.\n");
  fprintf (stderr, "Try 'vhd-img --help' for more information.\n");
  return EXIT_FAILURE;
}
