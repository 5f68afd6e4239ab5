/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of engines. */
#include "coaio-config.h"

#include "engine.h"

#include <stdatomic.h>
#include <string.h>

static const char *const names[AIO_N_ENGINES] = {
  [AIO_ENGINE_THREADS] = "threads",
  [AIO_ENGINE_NATIVE] = "native",
  [AIO_ENGINE_IO_URING] = "io_uring",
};

const AioEngineOps *
aio_engine_ops (AioEngine engine)
{
  switch (engine)
    {
#ifdef HAVE_LIBAIO
    case AIO_ENGINE_NATIVE:
      return &aio_engine_native;
#endif
#ifdef HAVE_LIBURING
    case AIO_ENGINE_IO_URING:
      return &aio_engine_io_uring;
#endif
    default:
      return NULL;
    }
}

bool
aio_engine_available (AioEngine engine)
{
  enum
  {
    UNKNOWN,
    GRANTED,
    REFUSED
  };
  static atomic_int known[AIO_N_ENGINES];
  const AioEngineOps *ops = aio_engine_ops (engine);
  int answer;

  if (engine == AIO_ENGINE_THREADS)
    return true;
  if (!ops)
    return false;
  answer = atomic_load (&known[engine]);
  if (answer == UNKNOWN)
    {
      answer = ops->probe () ? GRANTED : REFUSED;
      atomic_store (&known[engine], answer);
    }
  return answer == GRANTED;
}

const char *
aio_engine_name (AioEngine engine)
{
  return (unsigned)engine < AIO_N_ENGINES ? names[engine] : NULL;
}

bool
aio_engine_from_name (const char *name, AioEngine *engine)
{
  for (int i = 0; i < AIO_N_ENGINES; i++)
    if (strcmp (names[i], name) == 0)
      {
        *engine = (AioEngine)i;
        return true;
      }
  return false;
}
