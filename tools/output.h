/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes for people, JSON for programs, and text from images made safe to show. */
#ifndef TOOLS_OUTPUT_H
#define TOOLS_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

/* "196 KiB", three digits; free it. */
char *format_size (int64_t bytes);
/* "100 MiB", "1.500 KiB", "12 bytes": up to three decimals, none when they are zeros; free it. */
char *format_size_exact (double bytes);

/* @text with control characters and broken UTF-8 written as \x1b; free it. */
char *printable (const char *text);

/* Writes JSON to standard output, indented or in one line.  Keys are NULL inside arrays and at the top. */
#define JSON_MAX_DEPTH 32

typedef struct
{
  bool one_line; /* set by the user, the rest starts as zeros */
  int depth;
  bool has_members[JSON_MAX_DEPTH];
} JsonWriter;

void json_begin (JsonWriter *json, const char *key, char bracket); /* '{' or '[' */
void json_end (JsonWriter *json, char bracket);                    /* '}' or ']' */
void json_string (JsonWriter *json, const char *key, const char *value);
void json_int (JsonWriter *json, const char *key, int64_t value);
/* Three decimals; not a number, or infinite: null. */
void json_seconds (JsonWriter *json, const char *key, double value);
void json_null (JsonWriter *json, const char *key);
void json_bool (JsonWriter *json, const char *key, bool value);
void json_variant (JsonWriter *json, const char *key, GVariant *value);
/* A line end after the document. */
void json_finish (JsonWriter *json);
/* From here on JSON is not printed but kept, until json_release () gives it to the caller. */
void json_hold (void);
char *json_release (void);

/* An a{sv} as "    key words: value" lines. */
void print_facts (GVariant *facts, int indent);

#endif
