/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* New identities and the present time.  The hooks are for tests, which set them before any other thread
 * runs. */
#include "identity.h"

#include <glib.h>
#include <uuid/uuid.h>

static void (*new_identity_hook) (uint8_t identity[16]);
static int64_t (*time_now_hook) (void);

void
identity_new (uint8_t identity[16])
{
  if (new_identity_hook != NULL)
    new_identity_hook (identity);
  else
    uuid_generate_random (identity);
}

int64_t
identity_time_now (void)
{
  if (time_now_hook != NULL)
    return time_now_hook ();

  const char *epoch = g_getenv ("SOURCE_DATE_EPOCH");
  int64_t seconds;

  /* Malformed text counts as unset: there is nobody to tell. */
  if (epoch != NULL && g_ascii_string_to_signed (epoch, 10, 0, G_MAXINT64, &seconds, NULL))
    return seconds;
  return g_get_real_time () / G_USEC_PER_SEC;
}

void
identity_set_hooks (void (*new_identity) (uint8_t identity[16]), int64_t (*time_now) (void))
{
  new_identity_hook = new_identity;
  time_now_hook = time_now;
}

void
identity_format (const uint8_t identity[16], char text[37])
{
  uuid_unparse_lower (identity, text);
}
