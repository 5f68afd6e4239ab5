/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include <coaio/iov.h>

static char memory[64];

/* "abcde" "" "fgh" "ijklmnop" */
static void
init_pieces (IoVector *vector)
{
  for (int i = 0; i < 64; i++)
    memory[i] = (char)('A' + i % 26);
  memcpy (memory + 8, "abcde", 5);
  memcpy (memory + 24, "fgh", 3);
  memcpy (memory + 40, "ijklmnop", 8);
  io_vector_init (vector, 1);
  io_vector_add (vector, memory + 8, 5);
  io_vector_add (vector, memory, 0);
  io_vector_add (vector, memory + 24, 3);
  io_vector_add (vector, memory + 40, 8);
}

static void
test_build (void)
{
  IoVector vector;
  struct iovec pieces[2] = { { memory, 3 }, { memory + 10, 4 } };

  io_vector_init_buf (&vector, memory, 7);
  g_assert_cmpint (vector.niov, ==, 1);
  g_assert_cmpuint (vector.size, ==, 7);
  io_vector_init_external (&vector, pieces, 2);
  g_assert_cmpuint (vector.size, ==, 7);
  g_assert_true (vector.iov == pieces);

  io_vector_init (&vector, 0);
  g_assert_cmpuint (vector.size, ==, 0);
  for (int i = 0; i < 100; i++)
    io_vector_add (&vector, memory + i % 64, (size_t)i);
  g_assert_cmpint (vector.niov, ==, 100);
  g_assert_cmpuint (vector.size, ==, 4950);
  io_vector_clear (&vector);
  g_assert_cmpuint (vector.size, ==, 0);
}

/* Every slice of 16 bytes, against the flat text. */
static void
test_slices (void)
{
  static const char text[] = "abcdefghijklmnop";
  IoVector vector;

  init_pieces (&vector);
  g_assert_cmpuint (vector.size, ==, 16);
  for (size_t offset = 0; offset <= 16; offset++)
    for (size_t bytes = 0; bytes <= 16 - offset; bytes++)
      {
        char out[17] = "";
        struct iovec slice[4];
        int n = io_vector_slice (&vector, offset, bytes, slice, 4);
        size_t sum = 0;
        IoVector copy;

        io_vector_to_buf (&vector, offset, out, bytes);
        g_assert_cmpmem (out, bytes, text + offset, bytes);
        g_assert_cmpint (n, ==, io_vector_slice_count (&vector, offset, bytes));
        for (int i = 0; i < n; i++)
          {
            g_assert_cmpuint (slice[i].iov_len, >, 0);
            g_assert_cmpmem (slice[i].iov_base, slice[i].iov_len, text + offset + sum, slice[i].iov_len);
            sum += slice[i].iov_len;
          }
        g_assert_cmpuint (sum, ==, bytes);
        if (n > 0)
          g_assert_cmpint (io_vector_slice (&vector, offset, bytes, slice, n - 1), ==, -1);

        io_vector_init (&copy, 0);
        io_vector_add_slice (&copy, &vector, offset, bytes);
        g_assert_cmpuint (copy.size, ==, bytes);
        memset (out, 0, sizeof out);
        io_vector_to_buf (&copy, 0, out, bytes);
        g_assert_cmpmem (out, bytes, text + offset, bytes);
        io_vector_clear (&copy);
      }
  io_vector_clear (&vector);
}

static void
test_write (void)
{
  IoVector vector;

  init_pieces (&vector);
  io_vector_from_buf (&vector, 3, "123456", 6);
  g_assert_cmpmem (memory + 8, 5, "abc12", 5);
  g_assert_cmpmem (memory + 24, 3, "345", 3);
  g_assert_cmpmem (memory + 40, 8, "6jklmnop", 8);
  io_vector_memset (&vector, 4, 'x', 5);
  g_assert_cmpmem (memory + 8, 5, "abc1x", 5);
  g_assert_cmpmem (memory + 24, 3, "xxx", 3);
  g_assert_cmpmem (memory + 40, 8, "xjklmnop", 8);
  /* Nothing beside the pieces. */
  g_assert_cmpint (memory[7], ==, 'A' + 7);
  g_assert_cmpint (memory[13], ==, 'A' + 13);
  g_assert_cmpint (memory[27], ==, 'A' + 1);
  io_vector_clear (&vector);
}

static void
test_aligned (void)
{
  static _Alignas(512) char area[4096];
  struct iovec pieces[3] = { { area, 512 }, { area + 1024, 1024 }, { area + 2048, 100 } };
  IoVector vector;

  io_vector_init_external (&vector, pieces, 3);
  g_assert_true (io_vector_slice_is_aligned (&vector, 0, 1536, 512));
  g_assert_false (io_vector_slice_is_aligned (&vector, 0, 1636, 512));
  g_assert_false (io_vector_slice_is_aligned (&vector, 0, 1500, 512));
  g_assert_false (io_vector_slice_is_aligned (&vector, 256, 512, 512));
  g_assert_true (io_vector_slice_is_aligned (&vector, 256, 512, 256));
  g_assert_true (io_vector_slice_is_aligned (&vector, 512, 512, 512));
  g_assert_true (io_vector_slice_is_aligned (&vector, 7, 0, 512));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/iov/build", test_build);
  g_test_add_func ("/iov/slices", test_slices);
  g_test_add_func ("/iov/write", test_write);
  g_test_add_func ("/iov/aligned", test_aligned);
  return g_test_run ();
}
