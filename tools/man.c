/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Manual pages, as roff, from the tables that the parser uses.  No date, so that a build can be repeated. */
#include "tool.h"

#include <stdio.h>
#include <string.h>

/* Text with what roff would interpret made plain.  @at_line_start: a dot or quote there is a request. */
static void
put_text (const char *text, bool at_line_start)
{
  for (const char *p = text; *p != '\0'; p++)
    {
      if (at_line_start && (*p == '.' || *p == '\''))
        fputs ("\\&", stdout);
      at_line_start = *p == '\n';
      if (*p == '\\')
        fputs ("\\e", stdout);
      else if (*p == '-')
        fputs ("\\-", stdout);
      else
        putchar (*p);
    }
}

static void
put_literal (const char *paragraph)
{
  printf (".nf\n.RS 4\n");
  g_auto (GStrv) lines = g_strsplit (paragraph, "\n", -1);
  for (char **line = lines; *line != NULL; line++)
    {
      put_text (*line + strspn (*line, " "), true);
      putchar ('\n');
    }
  printf (".RE\n.fi\n");
}

static void
put_paragraphs (const char *text)
{
  g_auto (GStrv) paragraphs = g_strsplit (text, "\n\n", -1);
  for (char **paragraph = paragraphs; *paragraph != NULL; paragraph++)
    {
      printf (".PP\n");
      if ((*paragraph)[0] == ' ')
        {
          put_literal (*paragraph);
          continue;
        }
      put_text (*paragraph, true);
      putchar ('\n');
    }
}

static void
put_options (const Command *command, OptionSection section)
{
  for (const OptionDef *option = command->options; option->kind != OPTION_END; option++)
    {
      if (option->section != section || option->kind == OPTION_REFUSED)
        continue;
      g_autofree char *synopsis = option_synopsis (option);
      printf (".TP\n.B ");
      put_text (synopsis, true);
      putchar ('\n');
      put_text (option->help, true);
      printf (".\n");
    }
}

static const char *
option_name (const OptionDef *option, char letter_text[static 3])
{
  if (option->name != NULL)
    return option->name;
  letter_text[0] = '-';
  letter_text[1] = option->letter;
  letter_text[2] = '\0';
  return letter_text;
}

/* Options of how images are opened are described once, with the commands that have them. */
static void
put_shared_options (const Program *program, OptionSection section)
{
  g_autoptr (GHashTable) seen = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  for (const Command *const *command = program->commands; *command != NULL; command++)
    for (const OptionDef *option = (*command)->options; option->kind != OPTION_END; option++)
      {
        char letter_text[3];
        const char *name = option_name (option, letter_text);
        if (option->section != section || option->kind == OPTION_REFUSED
            || !g_hash_table_add (seen, g_strdup (name)))
          continue;
        g_autofree char *synopsis = option_synopsis (option);
        printf (".TP\n.B ");
        put_text (synopsis, true);
        putchar ('\n');
        put_text (option->help, true);
        printf (".\n(");
        bool first = true;
        for (const Command *const *user = program->commands; *user != NULL; user++)
          for (const OptionDef *o = (*user)->options; o->kind != OPTION_END; o++)
            {
              char other_text[3];
              if (o->section != section || strcmp (option_name (o, other_text), name) != 0)
                continue;
              printf ("%s%s", first ? "" : ", ", (*user)->name);
              first = false;
            }
        printf (")\n");
      }
}

static void
put_command (const Command *command)
{
  printf (".SS ");
  put_text (command->name, true);
  if (command->options[0].kind != OPTION_END)
    printf (" [OPTION]...");
  putchar (' ');
  put_text (command->operands, false);
  putchar ('\n');
  if (command->aliases != NULL)
    for (const char *const *alias = command->aliases; *alias != NULL; alias++)
      printf (".PP\nAlso called\n.BR %s .\n", *alias);
  put_paragraphs (command->description);
  put_options (command, OPTION_MAIN);
}

static bool
has_options (const Program *program, OptionSection section)
{
  for (const Command *const *command = program->commands; *command != NULL; command++)
    for (const OptionDef *option = (*command)->options; option->kind != OPTION_END; option++)
      if (option->section == section)
        return true;
  return false;
}

void
man_print (const Program *program)
{
  g_autofree char *upper = g_ascii_strup (program->name, -1);
  printf (".TH %s 1 \"\" \"vhdkit %s\" \"User Commands\"\n.SH NAME\n", upper, VHDKIT_VERSION);
  put_text (program->name, true);
  printf (" \\- %s\n.SH SYNOPSIS\n", program->summary);
  put_text (program->synopsis, true);
  printf ("\n.SH DESCRIPTION\n");
  put_paragraphs (program->description);
  if (program->self != NULL)
    {
      printf (".SH OPTIONS\n");
      put_options (program->self, OPTION_MAIN);
      put_options (program->self, OPTION_IMAGE);
    }
  printf (".SH COMMANDS\n");
  for (const Command *const *command = program->commands; *command != NULL; command++)
    put_command (*command);
  if (has_options (program, OPTION_IMAGE))
    {
      printf (".SH OPENING IMAGES\nOptions that several commands have, each followed by their names.\n");
      put_shared_options (program, OPTION_IMAGE);
    }
  for (const ManSection *section = program->sections; section->title != NULL; section++)
    {
      g_autofree char *title = g_ascii_strup (section->title, -1);
      printf (".SH %s\n", title);
      put_paragraphs (section->text);
    }
  printf (".SH TESTING\nFor test suites; in no help text.\n");
  put_shared_options (program, OPTION_TESTING);
  if (program->self != NULL)
    put_options (program->self, OPTION_TESTING);
}

static void
print_rows (const Command *command)
{
  static const char *const sections[] = { "main", "image", "testing" };
  for (const OptionDef *option = command->options; option->kind != OPTION_END; option++)
    {
      if (option->kind == OPTION_REFUSED)
        continue;
      char letter[2] = { option->letter, '\0' };
      printf ("%s\t%s\t%s\t%s\t%s\n", command->name, letter, option->name != NULL ? option->name : "",
              option->value != NULL ? option->value : "", sections[option->section]);
    }
}

void
man_print_options (const Program *program)
{
  if (program->self != NULL)
    print_rows (program->self);
  for (const Command *const *command = program->commands; *command != NULL; command++)
    print_rows (*command);
}
