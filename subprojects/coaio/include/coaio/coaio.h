/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Coroutines and asynchronous I/O: everything. */
#ifndef COAIO_H
#define COAIO_H

#include <coaio/aio.h>
#include <coaio/coroutine.h>
#include <coaio/iov.h>
#include <coaio/lock.h>

#endif
