/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Linux swap space.
 *
 *   page 0    1024: version, last page, number of bad pages, UUID, label; 1536: the bad pages
 *             last 10 bytes: what it is
 *   page 1…   swapped out memory of a system that runs: nothing that a switched off one comes back to, unless it was
 *             hibernated, which is said in the place of the signature: of this swap space, or of another on the disk
 *
 * Numbers are in the byte order of the machine that made it, and pages have its size.
 */
#include "fs.h"

#include "byteorder.h"
#include "refuse.h"

#include <string.h>

#define SIGNATURE_BYTES  10
#define MIN_PAGE         4096
#define MAX_PAGE         65536
#define BAD_PAGES_OFFSET 1536
#define VERSION          1

typedef struct
{
  uint8_t version[4];
  uint8_t last_page[4];
  uint8_t bad_pages[4];
  uint8_t uuid[16];
  char label[16];
} SwapHeaderDisk;
#define HEADER_OFFSET 1024

static const struct
{
  const char *text; /* in the last SIGNATURE_BYTES of the first page */
  const char *reason;
  VhdkitError code;
} signatures[] = {
  { "SWAPSPACE2", NULL, VHDKIT_ERROR_FAILED },
  { "SWAP-SPACE", "it is swap space of version 0, which is not read", VHDKIT_ERROR_UNSUPPORTED },
  { "S1SUSPEND", "it holds a hibernated system", VHDKIT_ERROR_IN_USE },
  { "S2SUSPEND", "it holds a hibernated system", VHDKIT_ERROR_IN_USE },
  { "ULSUSPEND", "it holds a hibernated system", VHDKIT_ERROR_IN_USE },
  { "LINHIB0001", "it holds a hibernated system", VHDKIT_ERROR_IN_USE },
  { "\xed\xc3\x02\xe9\x98\x56\xe5\x0c", "it holds a hibernated system", VHDKIT_ERROR_IN_USE },
};

/* Index of the signature that pages of @page bytes would have, or -1. */
static int
find_signature (const FsVolume *volume, int page)
{
  for (size_t i = 0; page <= volume->bytes && i < G_N_ELEMENTS (signatures); i++)
    if (memcmp (volume->head + page - SIGNATURE_BYTES, signatures[i].text, strlen (signatures[i].text)) == 0)
      return (int)i;
  return -1;
}

static bool coroutine_fn
swap_co_probe (FsVolume *volume)
{
  bool found = false;

  for (int page = MIN_PAGE; page <= MAX_PAGE; page *= 2)
    {
      int signature = find_signature (volume, page);

      /* Told here: it counts also where the volume is not looked into. */
      if (signature >= 0 && signatures[signature].code == VHDKIT_ERROR_IN_USE)
        fs_set_hibernated (volume);
      found = found || signature >= 0;
    }
  return found;
}

static inline uint32_t
get32 (const uint8_t *bytes, bool big_endian)
{
  Be32 be;
  Le32 le;

  memcpy (be.b, bytes, sizeof be.b);
  memcpy (le.b, bytes, sizeof le.b);
  return big_endian ? be32_get (be) : le32_get (le);
}

/* The one size of pages for which there is a signature; 0 with @error. */
static int
find_page_size (const FsVolume *volume, GError **error)
{
  int found = 0;

  for (int page = MIN_PAGE; page <= MAX_PAGE; page *= 2)
    {
      int signature = find_signature (volume, page);

      if (signature < 0)
        continue;
      if (signatures[signature].reason != NULL)
        {
          fs_refuse (error, signatures[signature].code, "%s", signatures[signature].reason);
          return 0;
        }
      if (found != 0)
        {
          fs_refuse (error, VHDKIT_ERROR_CORRUPT, "swap signatures for pages of %d and of %d bytes", found,
                     page);
          return 0;
        }
      found = page;
    }
  return found;
}

static int
compare_pages (const void *a, const void *b)
{
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

  return x < y ? -1 : x > y;
}

static bool coroutine_fn
swap_co_read_free (FsVolume *volume, GError **error)
{
  SwapHeaderDisk header;
  int page = find_page_size (volume, error);

  if (page == 0)
    return false;
  memcpy (&header, volume->head + HEADER_OFFSET, sizeof header);
  bool big_endian = get32 (header.version, true) == VERSION;
  if (get32 (header.version, big_endian) != VERSION)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "swap header: version %u, expected %d",
                      get32 (header.version, false), VERSION);
  int64_t last_page = get32 (header.last_page, big_endian);
  uint32_t bad_pages = get32 (header.bad_pages, big_endian);
  fs_set_label (volume, header.label, sizeof header.label);

  if (last_page < 1 || last_page >= volume->bytes / page)
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT,
                      "swap header: last page %" G_GINT64_FORMAT ", expected 1..%" G_GINT64_FORMAT, last_page,
                      volume->bytes / page - 1);
  uint32_t max_bad = (uint32_t)(page - SIGNATURE_BYTES - BAD_PAGES_OFFSET) / 4;
  if (bad_pages > max_bad)
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT, "swap header: %u bad pages, expected at most %u",
                      bad_pages, max_bad);

  g_autofree uint32_t *bad = g_new (uint32_t, bad_pages + 1);
  for (uint32_t i = 0; i < bad_pages; i++)
    {
      bad[i] = get32 (volume->head + BAD_PAGES_OFFSET + (size_t)i * 4, big_endian);
      if (bad[i] < 1 || bad[i] > last_page)
        return fs_refuse (error, VHDKIT_ERROR_CORRUPT,
                          "swap header: bad page %u, expected 1..%" G_GINT64_FORMAT, bad[i], last_page);
    }
  qsort (bad, bad_pages, sizeof *bad, compare_pages);
  int64_t next = 1;
  for (uint32_t i = 0; i < bad_pages; i++)
    {
      fs_add_free (volume, next * page, MAX (bad[i] - next, 0) * page);
      next = (int64_t)bad[i] + 1;
    }
  fs_add_free (volume, next * page, (last_page + 1 - next) * page);
  return true;
}

const FsReader swap_reader = {
  .name = "swap",
  .co_probe = swap_co_probe,
  .co_read_free = swap_co_read_free,
  .hides_mounted = true,
};
