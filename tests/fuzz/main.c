/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Replays inputs, as TAP:
 *
 *   fuzz-NAME PATH...                   each file, and each one in a directory
 *   fuzz-NAME --pack SCRIPT FILE...     makes an input of image files (0, 1, …) and a script in hexadecimal, on
 *                                       standard output; sectors that the target does not read are left out
 *   fuzz-NAME --unpack INPUT            writes its files to 0.img, 1.img … of the current directory
 */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int cases;

static void
replay (const char *path)
{
  g_autofree char *data = NULL, *name = g_path_get_basename (path);
  gsize bytes;
  g_autoptr (GError) error = NULL;

  if (!g_file_get_contents (path, &data, &bytes, &error))
    g_error ("%s", error->message);
  /* Told before, so that a crash names its input. */
  printf ("# %s\n", path);
  fflush (stdout);
  fuzz_run ((const uint8_t *)data, bytes);
  printf ("ok %d - %s\n", ++cases, name);
}

static int
compare_names (const void *a, const void *b)
{
  return strcmp (*(char *const *)a, *(char *const *)b);
}

static void
replay_all (const char *path)
{
  g_autoptr (GDir) dir = g_dir_open (path, 0, NULL);
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  const char *name;

  if (!dir)
    {
      if (g_file_test (path, G_FILE_TEST_EXISTS))
        replay (path);
      return;
    }
  while ((name = g_dir_read_name (dir)))
    g_ptr_array_add (names, g_build_filename (path, name, NULL));
  g_ptr_array_sort (names, compare_names);
  for (guint i = 0; i < names->len; i++)
    replay_all (names->pdata[i]);
}

static int
hex_digit (char c)
{
  int digit = g_ascii_xdigit_value (c);

  if (digit < 0)
    g_error ("the script is to be hexadecimal");
  return digit;
}

static int
pack (int argc, char **argv)
{
  FuzzInput input = { .script = g_byte_array_new () };
  const char *hex = argv[0];

  for (; hex[0] != '\0' && hex[1] != '\0'; hex += 2)
    {
      guint8 byte = hex_digit (hex[0]) << 4 | hex_digit (hex[1]);

      g_byte_array_append (input.script, &byte, 1);
    }
  for (int i = 1; i < argc && i <= FUZZ_FILES; i++)
    input.files[i - 1] = content_read (argv[i]);

  g_autoptr (GByteArray) whole = fuzz_input_pack (&input);

  fuzz_store_watch ();
  fuzz_run (whole->data, whole->len);
  for (unsigned i = 0; i < FUZZ_FILES; i++)
    if (input.files[i])
      {
        Content *seen = fuzz_store_seen (i, input.files[i]);

        content_free (input.files[i]);
        input.files[i] = seen;
      }

  g_autoptr (GByteArray) packed = fuzz_input_pack (&input);

  fuzz_input_clear (&input);
  return fwrite (packed->data, 1, packed->len, stdout) == packed->len && fflush (stdout) == 0 ? 0 : 1;
}

static int
unpack (const char *path)
{
  g_autofree char *data = NULL;
  gsize bytes;
  FuzzInput input;

  if (!g_file_get_contents (path, &data, &bytes, NULL))
    return 1;
  fuzz_input_parse (&input, (const uint8_t *)data, bytes, fuzz_target.max_file_bytes);
  for (unsigned i = 0; i < FUZZ_FILES; i++)
    if (input.files[i])
      {
        g_autofree char *name = g_strdup_printf ("%u.img", i);

        content_write_file (input.files[i], name);
      }
  printf ("script of %u bytes:", input.script->len);
  for (guint i = 0; i < input.script->len; i++)
    printf (" %02x", input.script->data[i]);
  printf ("\n");
  fuzz_input_clear (&input);
  return 0;
}

int
main (int argc, char **argv)
{
  if (argc > 2 && strcmp (argv[1], "--pack") == 0)
    return pack (argc - 2, argv + 2);
  if (argc == 3 && strcmp (argv[1], "--unpack") == 0)
    return unpack (argv[2]);
  for (int i = 1; i < argc; i++)
    replay_all (argv[i]);
  printf ("1..%d\n", cases);
  return 0;
}
