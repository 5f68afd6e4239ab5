/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tests of block/util. */
#include <string.h>

#include <glib.h>

#include "bitset.h"
#include "byteorder.h"
#include "checked.h"
#include "identity.h"
#include "path.h"
#include "zero.h"

static void
test_byteorder (void)
{
  static const uint8_t bytes[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
  Be64 big = be64 (0x0102030405060708);
  Le64 little = le64 (0x0807060504030201);

  g_assert_cmpmem (&big, 8, bytes, 8);
  g_assert_cmpmem (&little, 8, bytes, 8);
  g_assert_cmphex (be64_get (big), ==, 0x0102030405060708);
  g_assert_cmphex (le64_get (little), ==, 0x0807060504030201);
  g_assert_cmphex (be16_at (bytes + 1), ==, 0x0203);
  g_assert_cmphex (le16_at (bytes + 1), ==, 0x0302);
  g_assert_cmphex (be32_at (bytes + 1), ==, 0x02030405);
  g_assert_cmphex (le32_at (bytes + 1), ==, 0x05040302);
}

static void
test_checked (void)
{
  int64_t sum;
  uint32_t product;

  g_assert_true (checked_add (G_MAXINT64 - 1, 1, &sum));
  g_assert_cmpint (sum, ==, G_MAXINT64);
  g_assert_false (checked_add (G_MAXINT64, 1, &sum));
  g_assert_true (checked_mul (65536u, 65535u, &product));
  g_assert_false (checked_mul (65536u, 65536u, &product));

  g_assert_cmpint (round_up (0, 7), ==, 0);
  g_assert_cmpint (round_up (8, 7), ==, 14);
  g_assert_cmpint (round_down (13, 7), ==, 7);
  g_assert_cmpint (div_round_up (G_MAXINT64, 2), ==, G_MAXINT64 / 2 + 1);
  g_assert_true (is_power_of_two (1));
  g_assert_false (is_power_of_two (0));
  g_assert_false (is_power_of_two (12));

  g_assert_true (ranges_overlap (0, 10, 9, 1));
  g_assert_false (ranges_overlap (0, 10, 10, 1));
  g_assert_false (ranges_overlap (5, 0, 0, 10));
  g_assert_true (ranges_overlap (0, G_MAXINT64, G_MAXINT64 - 1, G_MAXINT64));
}

/* Every length and alignment, one set bit at every place. */
static void
test_zero (void)
{
  uint8_t memory[600] = { 0 };

  for (size_t start = 0; start < 17; start++)
    for (size_t bytes = 0; bytes < 520; bytes++)
      {
        /* What lies around must not matter. */
        memory[start + bytes] = 0xff;
        if (start > 0)
          memory[start - 1] = 0xff;
        g_assert_true (buffer_is_zero (memory + start, bytes));
        for (size_t at = 0; at < bytes; at += bytes < 140 ? 1 : 13)
          {
            memory[start + at] = 1 << (at % 8);
            g_assert_false (buffer_is_zero (memory + start, bytes));
            memory[start + at] = 0;
          }
        memset (memory, 0, sizeof memory);
      }
}

static void
test_zero_run (void)
{
  uint8_t memory[4096] = { 0 };
  bool zero;

  memory[1024] = 1;
  g_assert_cmpuint (buffer_zero_run (memory, sizeof memory, 512, &zero), ==, 1024);
  g_assert_true (zero);
  g_assert_cmpuint (buffer_zero_run (memory + 1024, 3072, 512, &zero), ==, 512);
  g_assert_false (zero);
  g_assert_cmpuint (buffer_zero_run (memory + 1536, 2560, 512, &zero), ==, 2560);
  g_assert_true (zero);
  g_assert_cmpuint (buffer_zero_run (memory + 1536, 100, 512, &zero), ==, 100);
  g_assert_true (zero);
  /* The last piece is short and differs. */
  memory[1800] = 1;
  g_assert_cmpuint (buffer_zero_run (memory + 1025, 800, 512, &zero), ==, 512);
  g_assert_true (zero);
}

static void
test_zero_speed (void)
{
  size_t bytes = 256 * 1024;
  g_autofree uint8_t *memory = g_malloc0 (bytes);
  int rounds = g_test_perf () ? 200000 : 100;
  int zeros = 0;
  int64_t start = g_get_monotonic_time ();

  for (int i = 0; i < rounds; i++)
    {
      zeros += buffer_is_zero (memory, bytes);
      __asm__ volatile("" : : "r"(memory) : "memory");
    }
  g_assert_cmpint (zeros, ==, rounds);

  double seconds = (g_get_monotonic_time () - start) / 1e6;

  g_test_maximized_result (bytes * (double)rounds / seconds / 1e9, "%.1f GB/s",
                           bytes * (double)rounds / seconds / 1e9);
}

#define BITS 1000

static void
check_bits (const uint8_t *bits, const bool *model, BitsetOrder order)
{
  for (size_t i = 0; i < BITS; i++)
    g_assert_cmpint (bitset_get (bits, i, order), ==, model[i]);
}

/* Against an array of bool; the memory ends with the bits, so a sanitizer sees each byte too many. */
static void
test_bitset (gconstpointer data)
{
  BitsetOrder order = GPOINTER_TO_INT (data);
  g_autofree uint8_t *bits = g_malloc0 (BITS / 8);
  bool model[BITS] = { false };

  for (int round = 0; round < 3000; round++)
    {
      size_t first = g_test_rand_int_range (0, BITS);
      size_t count = g_test_rand_int_range (0, round % 3 == 0 ? 20 : BITS);
      bool value = g_test_rand_bit (), found;

      count = MIN (count, BITS - first);
      bitset_fill (bits, first, count, value, order);
      for (size_t i = first; i < first + count; i++)
        model[i] = value;
      g_assert_true (bitset_all (bits, first, count, value, order));
      g_assert_true (count == 0 || !bitset_all (bits, first, count, !value, order));
      if (round % 10 == 0)
        check_bits (bits, model, order);

      size_t from = g_test_rand_int_range (0, BITS);
      size_t end = g_test_rand_int_range (from + 1, BITS + 1);
      size_t run = 1;

      while (from + run < end && model[from + run] == model[from])
        run++;
      g_assert_cmpuint (bitset_run (bits, from, end, &found, order), ==, run);
      g_assert_cmpint (found, ==, model[from]);
      g_assert_cmpint (bitset_all (bits, from, end - from, found, order), ==, run == end - from);
    }
}

static void
test_bitset_order (void)
{
  uint8_t bits[4] = { 0 };

  bitset_fill (bits, 1, 1, true, BITSET_MSB_FIRST);
  bitset_fill (bits, 9, 1, true, BITSET_LSB_FIRST);
  bitset_fill (bits, 18, 3, true, BITSET_MSB_FIRST);
  bitset_fill (bits, 26, 3, true, BITSET_LSB_FIRST);
  g_assert_cmphex (bits[0], ==, 0x40);
  g_assert_cmphex (bits[1], ==, 0x02);
  g_assert_cmphex (bits[2], ==, 0x38);
  g_assert_cmphex (bits[3], ==, 0x1c);
}

static void
fixed_identity (uint8_t identity[16])
{
  for (int i = 0; i < 16; i++)
    identity[i] = i * 17;
}

static int64_t
fixed_time (void)
{
  return 42;
}

static void
test_identity (void)
{
  uint8_t a[16], b[16];
  char text[37];

  identity_new (a);
  identity_new (b);
  g_assert_true (memcmp (a, b, sizeof a) != 0);
  g_assert_cmphex (a[6] >> 4, ==, 4);
  g_assert_cmphex (a[8] >> 6, ==, 2);

  identity_set_hooks (fixed_identity, fixed_time);
  identity_new (a);
  identity_format (a, text);
  g_assert_cmpstr (text, ==, "00112233-4455-6677-8899-aabbccddeeff");
  g_assert_cmpint (identity_time_now (), ==, 42);
  identity_set_hooks (NULL, NULL);

  g_setenv ("SOURCE_DATE_EPOCH", "1234567890", true);
  g_assert_cmpint (identity_time_now (), ==, 1234567890);
  g_setenv ("SOURCE_DATE_EPOCH", "yesterday", true);
  g_assert_cmpint (identity_time_now (), >, 1500000000);
  g_unsetenv ("SOURCE_DATE_EPOCH");
  g_assert_cmpint (identity_time_now (), >, 1500000000);
}

static void
test_path (void)
{
  static const struct
  {
    const char *file, *target, *relative;
  } cases[] = {
    { "/a/child.vhd", "/a/parent.vhd", ".\\parent.vhd" },
    { "/a/child.vhd", "/a/b/c/parent.vhd", ".\\b\\c\\parent.vhd" },
    { "/a/b/c/child.vhd", "/a/parent.vhd", "..\\..\\parent.vhd" },
    { "/a/b/child.vhd", "/a/c/parent.vhd", "..\\c\\parent.vhd" },
    { "/child.vhd", "/a/parent.vhd", ".\\a\\parent.vhd" },
    { "/a/child.vhd", "/parent.vhd", "..\\parent.vhd" },
    { "/child.vhd", "/parent.vhd", ".\\parent.vhd" },
    /* Names that only begin alike, a directory named as the file is, a name that looks like a drive. */
    { "/ab/child.vhd", "/a/parent.vhd", "..\\a\\parent.vhd" },
    { "/a/x/child.vhd", "/a/x", "..\\x" },
    { "/a/child.vhd", "/a/C:", ".\\C:" },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *relative = path_relative_windows (cases[i].file, cases[i].target);

      g_assert_cmpstr (relative, ==, cases[i].relative);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/util/byteorder", test_byteorder);
  g_test_add_func ("/util/checked", test_checked);
  g_test_add_func ("/util/zero", test_zero);
  g_test_add_func ("/util/zero-run", test_zero_run);
  g_test_add_func ("/util/zero-speed", test_zero_speed);
  g_test_add_data_func ("/util/bitset/msb-first", GINT_TO_POINTER (BITSET_MSB_FIRST), test_bitset);
  g_test_add_data_func ("/util/bitset/lsb-first", GINT_TO_POINTER (BITSET_LSB_FIRST), test_bitset);
  g_test_add_func ("/util/bitset/order", test_bitset_order);
  g_test_add_func ("/util/identity", test_identity);
  g_test_add_func ("/util/path", test_path);
  return g_test_run ();
}
