/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The chunks of btrfs: where logical addresses are on the device, and what of the device they leave. */
#include <inttypes.h>
#include <string.h>

#include "btrfs.h"
#include "checked.h"

/* A copy of a chunk. */
typedef struct
{
  uint64_t physical, length, logical;
} Stripe;

/* What is made of the chunk tree. */
typedef struct
{
  GArray *chunks;
  unsigned devices;
} ChunkTree;

typedef struct
{
  GArray *stripes; /* of Stripe, by place */
  guint next;      /* the first that has not come up in the device tree */
} DeviceTree;

BtrfsChunk *
btrfs_find_chunk (Btrfs *btrfs, uint64_t logical, uint64_t bytes)
{
  guint low = 0, high = btrfs->chunks->len;

  while (low < high)
    {
      guint middle = low + (high - low) / 2;
      BtrfsChunk *chunk = &g_array_index (btrfs->chunks, BtrfsChunk, middle);

      if (logical < chunk->logical)
        high = middle;
      else if (logical - chunk->logical >= chunk->length)
        low = middle + 1;
      else
        return bytes <= chunk->length - (logical - chunk->logical) ? chunk : NULL;
    }
  return NULL;
}

/* Copies that a profile makes on one device, 0: not understood. */
static unsigned
profile_copies (uint64_t profile)
{
  switch (profile)
    {
    case 0:
    case BTRFS_CHUNK_RAID0: /* of one stripe */
      return 1;
    case BTRFS_CHUNK_DUP:
      return 2;
    default:
      return 0;
    }
}

/* Decodes one chunk item with its stripes from the @bytes at @data, and appends it to @chunks. */
static bool
take_chunk (const Btrfs *btrfs, GArray *chunks, const BtrfsKey *key, const uint8_t *data, uint32_t bytes,
            GError **error)
{
  const BtrfsChunkDisk *disk = (const void *)data;
  const uint64_t kinds = BTRFS_CHUNK_DATA | BTRFS_CHUNK_SYSTEM | BTRFS_CHUNK_METADATA;
  BtrfsChunk chunk = { .logical = key->offset };
  uint64_t end;

  if (key->object != BTRFS_FIRST_CHUNK || key->type != BTRFS_CHUNK_ITEM || bytes < sizeof *disk)
    return btrfs_corrupt (error, "chunk tree: item of type %u, %u bytes", key->type, bytes);
  chunk.length = le64_get (disk->length);
  chunk.type = le64_get (disk->type);
  chunk.copies = profile_copies (chunk.type & ~kinds);
  if (chunk.copies == 0 || le16_get (disk->stripes) != chunk.copies || (chunk.type & kinds) == 0)
    return btrfs_unsupported (error, "chunk at %" PRIu64 ": type 0x%" PRIx64 " with %u stripes on one device",
                              chunk.logical, chunk.type, le16_get (disk->stripes));
  if (bytes != sizeof *disk + chunk.copies * sizeof (BtrfsStripeDisk) || chunk.length == 0
      || chunk.length % btrfs->sector_size != 0 || chunk.logical % btrfs->sector_size != 0
      || !checked_add (chunk.logical, chunk.length, &end) || chunk.length > btrfs->device_bytes)
    return btrfs_corrupt (error, "chunk at %" PRIu64 ": %" PRIu64 " bytes in an item of %u", chunk.logical,
                          chunk.length, bytes);
  for (unsigned i = 0; i < chunk.copies; i++)
    {
      BtrfsStripeDisk stripe;

      memcpy (&stripe, data + sizeof *disk + i * sizeof stripe, sizeof stripe);
      chunk.physical[i] = le64_get (stripe.offset);
      if (le64_get (stripe.device) != btrfs->device
          || memcmp (stripe.device_uuid, btrfs->device_uuid, sizeof stripe.device_uuid) != 0
          || chunk.physical[i] % btrfs->sector_size != 0
          || chunk.physical[i] > btrfs->device_bytes - chunk.length)
        return btrfs_corrupt (error,
                              "chunk at %" PRIu64 ": stripe %u at %" PRIu64 " of device %" PRIu64
                              ": not inside of the device %" PRIu64 " with its %" PRIu64 " bytes",
                              chunk.logical, i, chunk.physical[i], le64_get (stripe.device), btrfs->device,
                              btrfs->device_bytes);
    }
  if (chunks->len > 0)
    {
      const BtrfsChunk *before = &g_array_index (chunks, BtrfsChunk, chunks->len - 1);

      if (chunk.logical < before->logical + before->length || chunks->len >= BTRFS_MAX_CHUNKS)
        return btrfs_corrupt (error, "chunk at %" PRIu64 ": overlaps that at %" PRIu64 ", or is one too many",
                              chunk.logical, before->logical);
    }
  g_array_append_val (chunks, chunk);
  return true;
}

bool
btrfs_decode_system_chunks (Btrfs *btrfs, GError **error)
{
  const BtrfsSuperDisk *super = (const void *)(btrfs->volume->head + BTRFS_SUPER_OFFSET);
  const uint8_t *p = super->system_chunks;
  uint32_t left = le32_get (super->system_chunk_bytes);

  if (left > sizeof super->system_chunks)
    return btrfs_corrupt (error, "superblock: %u bytes of chunks", left);
  while (left > 0)
    {
      const BtrfsKeyDisk *disk = (const void *)p;
      const BtrfsChunkDisk *chunk = (const void *)(p + sizeof *disk);
      uint32_t bytes;
      BtrfsKey key;

      if (left < sizeof *disk + sizeof *chunk)
        return btrfs_corrupt (error, "superblock: chunks: %u bytes at the end", left);
      key = btrfs_key_decode (disk);
      bytes = (uint32_t)(sizeof *chunk + le16_get (chunk->stripes) * sizeof (BtrfsStripeDisk));
      if (bytes > left - sizeof *disk)
        return btrfs_corrupt (error, "superblock: chunks: one of %u bytes in %u", bytes, left);
      if (!take_chunk (btrfs, btrfs->chunks, &key, (const void *)chunk, bytes, error))
        return false;
      p += sizeof *disk + bytes;
      left -= (uint32_t)sizeof *disk + bytes;
    }
  return true;
}

static bool coroutine_fn
co_take_chunk_item (Btrfs *btrfs, const BtrfsKey *key, const uint8_t *data, uint32_t bytes, void *opaque,
                    GError **error)
{
  const BtrfsDeviceItemDisk *device = (const void *)data;
  ChunkTree *tree = opaque;

  if (key->type != BTRFS_DEVICE_ITEM)
    return take_chunk (btrfs, tree->chunks, key, data, bytes, error);
  if (bytes < sizeof *device || key->offset != btrfs->device || le64_get (device->device) != btrfs->device
      || le64_get (device->total_bytes) != btrfs->device_bytes
      || memcmp (device->uuid, btrfs->device_uuid, sizeof device->uuid) != 0 || ++tree->devices > 1)
    return btrfs_corrupt (
        error, "chunk tree: device %" PRIu64 " is not the only one, %" PRIu64 ", of the superblock",
        key->offset, btrfs->device);
  return true;
}

/* What mapped the chunk tree must stand there again. */
static bool
check_system_chunks (Btrfs *btrfs, GArray *chunks, GError **error)
{
  GArray *system = btrfs->chunks;

  btrfs->chunks = chunks;
  for (guint i = 0; i < system->len; i++)
    {
      const BtrfsChunk *expected = &g_array_index (system, BtrfsChunk, i);
      const BtrfsChunk *found = btrfs_find_chunk (btrfs, expected->logical, expected->length);

      if (found == NULL || found->logical != expected->logical || found->length != expected->length
          || found->type != expected->type
          || memcmp (found->physical, expected->physical, sizeof found->physical) != 0)
        {
          uint64_t logical = expected->logical;

          g_array_unref (system);
          return btrfs_corrupt (error, "chunk at %" PRIu64 ": superblock and chunk tree differ", logical);
        }
    }
  g_array_unref (system);
  return true;
}

static int
compare_stripes (const void *a, const void *b)
{
  const Stripe *x = a, *y = b;

  return x->physical < y->physical ? -1 : x->physical > y->physical;
}

static GArray *
make_stripes (const Btrfs *btrfs)
{
  GArray *stripes = g_array_new (false, false, sizeof (Stripe));

  for (guint i = 0; i < btrfs->chunks->len; i++)
    {
      const BtrfsChunk *chunk = &g_array_index (btrfs->chunks, BtrfsChunk, i);

      for (unsigned copy = 0; copy < chunk->copies; copy++)
        {
          Stripe stripe = { chunk->physical[copy], chunk->length, chunk->logical };

          g_array_append_val (stripes, stripe);
        }
    }
  g_array_sort (stripes, compare_stripes);
  return stripes;
}

/* Adds what is between the stripes as free. */
static bool
add_unallocated (const Btrfs *btrfs, const GArray *stripes, GError **error)
{
  uint64_t end = 0;

  for (guint i = 0; i < stripes->len; i++)
    {
      const Stripe *stripe = &g_array_index (stripes, Stripe, i);

      if (stripe->physical < end)
        return btrfs_corrupt (error, "chunk at %" PRIu64 ": at %" PRIu64 " of the device, in another chunk",
                              stripe->logical, stripe->physical);
      fs_add_free (btrfs->volume, (int64_t)end, (int64_t)(stripe->physical - end));
      end = stripe->physical + stripe->length;
    }
  fs_add_free (btrfs->volume, (int64_t)end, (int64_t)(btrfs->device_bytes - end));
  return true;
}

static bool
take_device_extent (const Btrfs *btrfs, DeviceTree *tree, const BtrfsKey *key, const uint8_t *data,
                    uint32_t bytes, GError **error)
{
  const BtrfsDeviceExtentDisk *disk = (const void *)data;
  const Stripe *stripe = NULL;

  if (tree->next < tree->stripes->len)
    stripe = &g_array_index (tree->stripes, Stripe, tree->next);
  if (stripe == NULL || bytes < sizeof *disk || key->object != btrfs->device
      || key->offset != stripe->physical || le64_get (disk->length) != stripe->length
      || le64_get (disk->chunk) != stripe->logical)
    return btrfs_corrupt (error,
                          "device tree: extent at %" PRIu64 " of device %" PRIu64 ": no chunk is there",
                          key->offset, key->object);
  tree->next++;
  return true;
}

static bool coroutine_fn
co_take_device_item (Btrfs *btrfs, const BtrfsKey *key, const uint8_t *data, uint32_t bytes, void *opaque,
                     GError **error)
{
  const BtrfsReplaceDisk *replace = (const void *)data;

  if (key->type == BTRFS_DEVICE_EXTENT)
    return take_device_extent (btrfs, opaque, key, data, bytes, error);
  if (key->type == BTRFS_DEVICE_REPLACE
      && (bytes < sizeof *replace || le64_get (replace->state) == BTRFS_REPLACE_STARTED
          || le64_get (replace->state) == BTRFS_REPLACE_SUSPENDED))
    return btrfs_unsupported (error, "device tree: the device is being replaced");
  return true;
}

static bool coroutine_fn
co_check_device_tree (Btrfs *btrfs, GArray *stripes, GError **error)
{
  DeviceTree tree = { .stripes = stripes };
  BtrfsRoot root;

  if (!btrfs_co_find_root (btrfs, BTRFS_DEVICE_TREE, &root, error)
      || !btrfs_co_walk_all (btrfs, &root, co_take_device_item, &tree, error))
    return false;
  if (tree.next != stripes->len)
    return btrfs_corrupt (error, "device tree: %u extents, the chunks have %u", tree.next, stripes->len);
  return true;
}

bool coroutine_fn
btrfs_co_read_chunks (Btrfs *btrfs, GError **error)
{
  ChunkTree tree = { .chunks = g_array_new (false, false, sizeof (BtrfsChunk)) };
  g_autoptr (GArray) stripes = NULL;

  if (!btrfs_co_walk_all (btrfs, &btrfs->chunk_root, co_take_chunk_item, &tree, error))
    {
      g_array_unref (tree.chunks);
      return false;
    }
  if (!check_system_chunks (btrfs, tree.chunks, error))
    return false;
  if (tree.devices != 1)
    return btrfs_corrupt (error, "chunk tree: no device");
  stripes = make_stripes (btrfs);
  return add_unallocated (btrfs, stripes, error) && co_check_device_tree (btrfs, stripes, error);
}
