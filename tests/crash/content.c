/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE   4096
#define SECTOR 512

typedef struct
{
  int refs;
  uint8_t data[PAGE]; /* behind the end of the content: zeros */
} Page;

struct Content
{
  int64_t bytes;
  Page **pages; /* NULL: zeros */
  size_t n, room;
};

static bool
is_zero (const uint8_t *data, size_t bytes)
{
  return bytes == 0 || (data[0] == 0 && memcmp (data, data + 1, bytes - 1) == 0);
}

static void
page_unref (Page *page)
{
  if (page && --page->refs == 0)
    g_free (page);
}

static void
set_page (Content *content, size_t index, Page *page)
{
  page_unref (content->pages[index]);
  content->pages[index] = page;
}

/* A page that nobody shares. */
static Page *
own_page (Content *content, size_t index)
{
  Page *page = content->pages[index], *own;

  if (page && page->refs == 1)
    return page;
  own = g_new0 (Page, 1);
  own->refs = 1;
  if (page)
    memcpy (own->data, page->data, PAGE);
  set_page (content, index, own);
  return own;
}

Content *
content_new (void)
{
  return g_new0 (Content, 1);
}

void
content_free (Content *content)
{
  if (content == NULL)
    return;
  for (size_t i = 0; i < content->n; i++)
    page_unref (content->pages[i]);
  g_free (content->pages);
  g_free (content);
}

static void
set_pages (Content *content, size_t n)
{
  for (size_t i = n; i < content->n; i++)
    page_unref (content->pages[i]);
  if (n > content->room)
    {
      content->room = MAX (n, 2 * content->room);
      content->pages = g_renew (Page *, content->pages, content->room);
    }
  if (n > content->n)
    memset (content->pages + content->n, 0, (n - content->n) * sizeof (Page *));
  content->n = n;
}

void
content_copy (Content *to, const Content *from)
{
  set_pages (to, from->n);
  to->bytes = from->bytes;
  for (size_t i = 0; i < from->n; i++)
    {
      if (to->pages[i] == from->pages[i])
        continue;
      if (from->pages[i])
        from->pages[i]->refs++;
      set_page (to, i, from->pages[i]);
    }
}

int64_t
content_length (const Content *content)
{
  return content->bytes;
}

void
content_set_length (Content *content, int64_t bytes)
{
  size_t last = bytes / PAGE;

  if (bytes < content->bytes && bytes % PAGE && content->pages[last])
    memset (own_page (content, last)->data + bytes % PAGE, 0, PAGE - bytes % PAGE);
  set_pages (content, (bytes + PAGE - 1) / PAGE);
  content->bytes = bytes;
}

void
content_write (Content *content, int64_t offset, int64_t bytes, const void *data)
{
  const uint8_t *from = data;
  int64_t end = offset + bytes;

  if (end > content->bytes)
    content_set_length (content, end);
  while (offset < end)
    {
      int64_t n = MIN (end - offset, PAGE - offset % PAGE);
      size_t index = offset / PAGE;

      if (n == PAGE && is_zero (from, PAGE))
        set_page (content, index, NULL);
      else
        memcpy (own_page (content, index)->data + offset % PAGE, from, n);
      offset += n;
      from += n;
    }
}

void
content_zero (Content *content, int64_t offset, int64_t bytes)
{
  int64_t end = offset + bytes;

  if (end > content->bytes)
    content_set_length (content, end);
  while (offset < end)
    {
      int64_t n = MIN (end - offset, PAGE - offset % PAGE);
      size_t index = offset / PAGE;

      if (n == PAGE)
        set_page (content, index, NULL);
      else if (content->pages[index])
        memset (own_page (content, index)->data + offset % PAGE, 0, n);
      offset += n;
    }
}

void
content_get (const Content *content, int64_t offset, int64_t bytes, void *buffer)
{
  uint8_t *to = buffer;
  int64_t end = offset + bytes;

  while (offset < end)
    {
      int64_t n = MIN (end - offset, PAGE - offset % PAGE);
      size_t index = offset / PAGE;

      if (index < content->n && content->pages[index])
        memcpy (to, content->pages[index]->data + offset % PAGE, n);
      else
        memset (to, 0, n);
      offset += n;
      to += n;
    }
}

bool
content_get_within (const Content *content, int64_t offset, int64_t bytes, void *buffer)
{
  if (offset < 0 || bytes < 0 || bytes > content->bytes || offset > content->bytes - bytes)
    return false;
  content_get (content, offset, bytes, buffer);
  return true;
}

int64_t
content_run (const Content *content, int64_t offset, bool *data)
{
  size_t first = offset / PAGE, end = first;

  *data = content->pages[first] != NULL;
  while (end < content->n && (content->pages[end] != NULL) == *data)
    end++;
  return MIN ((int64_t)end * PAGE, content->bytes) - offset;
}

int64_t
content_compare (const Content *a, const Content *b)
{
  static const uint8_t zeros[PAGE];

  g_assert_cmpint (a->bytes, ==, b->bytes);
  for (size_t i = 0; i < a->n; i++)
    {
      const uint8_t *x = a->pages[i] ? a->pages[i]->data : zeros,
                    *y = b->pages[i] ? b->pages[i]->data : zeros;

      if (x == y || memcmp (x, y, PAGE) == 0)
        continue;
      for (int at = 0; at < PAGE; at += SECTOR)
        if (memcmp (x + at, y + at, SECTOR) != 0)
          return (int64_t)i * PAGE + at;
    }
  return -1;
}

/* --- files --------------------------------------------------------------------------------------------- */

static bool
read_data (Content *content, int fd, int64_t offset, int64_t end)
{
  uint8_t buffer[16 * PAGE];

  while (offset < end)
    {
      ssize_t n = pread (fd, buffer, MIN ((int64_t)sizeof buffer, end - offset), offset);

      if (n <= 0)
        return false;
      content_write (content, offset, n, buffer);
      offset += n;
    }
  return true;
}

Content *
content_read (const char *path)
{
  Content *content = content_new ();
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  int64_t bytes = fd < 0 ? -1 : lseek (fd, 0, SEEK_END);
  bool ok = bytes >= 0;

  if (ok)
    content_set_length (content, bytes);
  for (int64_t at = 0; ok && at < bytes;)
    {
      int64_t data = lseek (fd, at, SEEK_DATA), hole;

      if (data < 0 && errno == ENXIO)
        break;
      hole = data < 0 ? -1 : lseek (fd, data, SEEK_HOLE);
      ok = hole > data && read_data (content, fd, data, hole);
      at = hole;
    }
  if (!ok)
    g_error ("%s: %s", path, g_strerror (errno));
  close (fd);
  return content;
}

/* The run of pages from @index that are there. */
static bool
write_run (const Content *content, int fd, size_t *index)
{
  struct iovec iov[64];
  int64_t offset = *index * PAGE, bytes = 0;
  int n = 0;

  for (; n < 64 && *index < content->n && content->pages[*index]; n++, ++*index)
    {
      iov[n].iov_base = content->pages[*index]->data;
      iov[n].iov_len = MIN (PAGE, content->bytes - (int64_t)*index * PAGE);
      bytes += iov[n].iov_len;
    }
  return pwritev (fd, iov, n, offset) == bytes;
}

void
content_write_file (const Content *content, const char *path)
{
  int fd = open (path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  bool ok = fd >= 0 && ftruncate (fd, 0) == 0 && ftruncate (fd, content->bytes) == 0;

  for (size_t i = 0; ok && i < content->n;)
    if (content->pages[i])
      ok = write_run (content, fd, &i);
    else
      i++;
  if (!ok)
    g_error ("%s: %s", path, g_strerror (errno));
  close (fd);
}
