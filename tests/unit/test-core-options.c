/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options, the registry, errors and warnings. */
#include "test-core-util.h"

#include <errno.h>
#include <string.h>

static const BlockOptionDef defs[] = {
  { "name", BLOCK_OPTION_STRING, NULL, "a name" },
  { "fast", BLOCK_OPTION_BOOL, "off", "speed" },
  { "count", BLOCK_OPTION_NUMBER, "1", "how many" },
  { "size", BLOCK_OPTION_SIZE, "2M", "how large" },
  { 0 },
};

static BlockOptions *
parse (const char *a, const char *b, GError **error)
{
  const char *const list[] = { a, b, NULL };

  return block_options_parse (defs, list, error);
}

static void
test_values (void)
{
  static const struct
  {
    const char *text;
    int64_t value;
  } sizes[] = { { "size=0", 0 },
                { "size=512", 512 },
                { "size=4k", 4096 },
                { "size=4K", 4096 },
                { "size=2M", 2 << 20 },
                { "size=3G", INT64_C (3) << 30 },
                { "size=64T", INT64_C (64) << 40 },
                { "size=1P", INT64_C (1) << 50 },
                { "size=7E", INT64_C (7) << 60 },
                { "size=100b", 100 },
                { "size=0x1000", 4096 },
                { "size=9223372036854775807", INT64_MAX } };

  for (size_t i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (BlockOptions) options = parse (sizes[i].text, NULL, NULL);
      g_assert_nonnull (options);
      g_assert_cmpint (block_options_get_size (options, "size", 5), ==, sizes[i].value);
      g_assert_cmpint (block_options_get_size (options, "count", 5), ==, 5);
      g_assert_true (block_options_get_bool (options, "fast", true));
      g_assert_null (block_options_get_string (options, "name", NULL));
    }
  g_assert_cmpint (block_options_get_size (NULL, "count", 6), ==, 6);

  static const char *const booleans[] = { "fast=off", "fast=on", "fast=no",    "fast=yes",
                                          "fast=0",   "fast",    "fast=False", "fast=TRUE" };
  for (size_t i = 0; i < G_N_ELEMENTS (booleans); i++)
    {
      g_autoptr (BlockOptions) options = parse (booleans[i], "name=a=b,c", NULL);
      g_assert_nonnull (options);
      g_assert_true (block_options_get_bool (options, "fast", i % 2 == 0) == (i % 2 == 1));
      g_assert_cmpstr (block_options_get_string (options, "name", NULL), ==, "a=b,c");
    }

  g_autoptr (BlockOptions) twice = parse ("count=1", "count=2", NULL); /* the last one counts */
  g_assert_cmpint (block_options_get_size (twice, "count", 0), ==, 2);
  g_autoptr (BlockOptions) none = block_options_parse (NULL, NULL, NULL);
  g_assert_nonnull (none);
}

static void
test_refused (void)
{
  static const struct
  {
    const char *text;
    const char *pattern;
  } bad[] = { { "colour=red", "*'colour'*name, fast, count, size*" },
              { "name", "*'name' needs a value*" },
              { "", "*unknown option ''*" },
              { "=5", "*unknown option ''*" },
              { "fast=maybe", "*'fast': 'maybe' is not on or off*" },
              { "fast=", "*'fast': '' is not*" },
              { "count=", "*'count': '' is not a number*" },
              { "count=-1", "*'-1'*" },
              { "count= 1", "*' 1'*" },
              { "count=1k", "*'1k'*" },
              { "size=8E", "*'8E' is not a number of bytes*" },
              { "size=9223372036854775808", "*not a number*" },
              { "size=99999999999999999999", "*not a number*" },
              { "size=1KiB", "*'1KiB'*" },
              { "size=0x", "*'0x'*" },
              { "size=1\n", "*'1\\x0a'*" } };

  for (size_t i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;
      g_assert_null (parse (bad[i].text, NULL, &error));
      g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT);
      if (!g_pattern_match_simple (bad[i].pattern, error->message))
        g_error ("'%s' does not match '%s'", error->message, bad[i].pattern);
    }
  g_autoptr (GError) error = NULL;
  const char *const list[] = { "x=y", NULL };
  g_assert_null (block_options_parse (NULL, list, &error));
  g_assert_true (g_pattern_match_simple ("*expected none*", error->message));
}

static void
test_split (void)
{
  g_auto (GStrv) words = bdrv_split_options ("filter,a=b,,c,,,d=e,");

  g_assert_cmpuint (g_strv_length (words), ==, 4);
  g_assert_cmpstr (words[0], ==, "filter");
  g_assert_cmpstr (words[1], ==, "a=b,c,");
  g_assert_cmpstr (words[2], ==, "d=e");
  g_assert_cmpstr (words[3], ==, "");
}

/* --- registry ------------------------------------------------------------------------------------------ */

static const char *const test_aliases[] = { "tf", "tee-eff", NULL };

static void
test_registry (void)
{
  BlockDriver *drv = g_memdup2 (&test_filter_driver, sizeof test_filter_driver);
  const BlockDriver *const *before = bdrv_list_drivers ();
  g_autoptr (GError) error = NULL;
  int n = 0;

  while (before[n])
    n++;
  drv->aliases = test_aliases;
  drv->abi = BLOCK_DRIVER_ABI + 1;
  g_assert_false (bdrv_register (drv, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED);
  g_clear_error (&error);
  drv->abi = BLOCK_DRIVER_ABI;
  drv->struct_size = 100;
  g_assert_false (bdrv_register (drv, NULL));
  drv->struct_size = sizeof (BlockDriver) + 64; /* a newer one */
  g_assert_true (bdrv_register (drv, &error));
  g_assert_no_error (error);
  g_assert_false (bdrv_register (drv, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT);

  BlockDriver *other = g_memdup2 (&test_filter_driver, sizeof test_filter_driver);
  other->format_name = "tee-eff";
  g_assert_false (bdrv_register (other, NULL));
  other->format_name = "other";
  other->aliases = test_aliases;
  g_assert_false (bdrv_register (other, NULL));
  g_free (other);

  g_assert_true (bdrv_find_driver ("test-filter") == drv);
  g_assert_true (bdrv_find_driver ("tf") == drv);
  g_assert_null (bdrv_find_driver ("other"));
  g_assert_nonnull (bdrv_find_driver ("raw"));
  g_assert_null (before[n]); /* old lists stay as they were */
  g_assert_true (bdrv_list_drivers ()[n] == drv);
}

/* --- errors -------------------------------------------------------------------------------------------- */

static void coroutine_fn
co_errors (void *opaque)
{
  g_autoptr (GError) error = NULL;
  MemFile mem;

  mem_file_init (&mem, 512);
  BlockDriverState *bs = co_mem_open (&mem, 0);
  bdrv_set_error (&error, bs, VHDKIT_ERROR_CORRUPT, "footer: found %d", 5);
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT);
  g_assert_cmpstr (error->message, ==, "test.img: footer: found 5");
  g_clear_error (&error);
  bdrv_set_error_errno (&error, bs, -ENOSPC, "cannot grow");
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NO_SPACE);
  g_assert_true (g_str_has_prefix (error->message, "test.img: cannot grow: "));
  g_clear_error (&error);
  bdrv_set_error_errno (&error, bs, -EIO, "x");
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IO);

  g_assert_cmpuint (bdrv_get_warnings (bs)->len, ==, 0);
  for (int i = 0; i < 1000; i++)
    bdrv_warn (bs, "warning %d", i);
  const GPtrArray *warnings = bdrv_get_warnings (bs);
  g_assert_cmpuint (warnings->len, <, 100);
  g_assert_cmpstr (g_ptr_array_index (warnings, 0), ==, "warning 0");
  bdrv_co_unref (bs);
  mem_file_clear (&mem);

  g_autofree char *shown = bdrv_printable ("a\x1b[2J\xff z\xc3\xa9");
  g_assert_cmpstr (shown, ==, "a\\x1b[2J\xef\xbf\xbd z\xc3\xa9");
}

static void
test_errors (void)
{
  test_run (co_errors, NULL);
}

static void
count_report (BlockCheckResult *result, BlockCheckSeverity severity, const char *text)
{
  int *n = result->opaque;

  g_assert_cmpstr (text, ==, "number 7");
  ++*n;
}

static void
test_reports (void)
{
  int n = 0;
  BlockCheckResult result = { .report = count_report, .opaque = &n };

  for (int severity = BLOCK_CHECK_INFO; severity <= BLOCK_CHECK_ERROR; severity++)
    block_check_report (&result, severity, "number %d", 7);
  g_assert_cmpint (n, ==, 4);
  g_assert_cmpint (result.leaks, ==, 1);
  g_assert_cmpint (result.corruptions, ==, 1);
  result.report = NULL;
  block_check_report (&result, BLOCK_CHECK_LEAK, "x");
  g_assert_cmpint (result.leaks, ==, 2);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/core/options/values", test_values);
  g_test_add_func ("/core/options/refused", test_refused);
  g_test_add_func ("/core/options/split", test_split);
  g_test_add_func ("/core/registry", test_registry);
  g_test_add_func ("/core/errors", test_errors);
  g_test_add_func ("/core/reports", test_reports);
  return g_test_run ();
}
