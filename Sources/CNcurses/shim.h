#pragma once
#ifndef _XOPEN_SOURCE_EXTENDED
#define _XOPEN_SOURCE_EXTENDED 1
#endif
#define NCURSES_WIDECHAR 1
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>
#include <curses.h>

/* <term.h> defines macros with names as common as `columns`; three of its functions are needed. */
extern int setupterm(const char *term, int file, int *error);
extern char *tigetstr(const char *name);
extern int tigetflag(const char *name);

/* Curses as the screen needs it: macros, variadic calls and global variables, each behind one function. */

/* 1: `term` is known; 0: unknown; -1: there is no terminfo database. */
static inline int nc_find_terminal(const char *term, int file) {
  int error = 0;
  if (setupterm(term, file, &error) == OK) return 1;
  return error == 1 ? 1 : error;
}

/* A string capability of the terminal found last; NULL if it has none. */
static inline const char *nc_capability(const char *name) {
  const char *value = tigetstr(name);
  return value == (const char *)-1 ? NULL : value;
}

static inline int nc_has_direct_color(void) { return tigetflag("RGB") > 0; }

/* Sets an environment variable to a number and returns a copy of its former value, NULL if it had none. */
static inline char *nc_set_number(const char *name, int number) {
  const char *value = getenv(name);
  char *before = value ? strdup(value) : NULL;
  char text[16];
  snprintf(text, sizeof text, "%d", number);
  setenv(name, text, 1);
  return before;
}

/* Puts a former value back and frees the copy. */
static inline void nc_put_back(const char *name, char *before) {
  if (before) setenv(name, before, 1);
  else unsetenv(name);
  free(before);
}

/* Opens a screen of a size. Curses takes the first size from LINES and COLUMNS, which are the caller's again
   afterwards; with that of terminfo or the terminal's own it would set a scrolling region as soon as the size is
   another, in which images scroll the screen. */
static inline void *nc_open(const char *term, FILE *output, FILE *input, int rows, int columns) {
  use_env(TRUE);
  char *lines_before = nc_set_number("LINES", rows), *columns_before = nc_set_number("COLUMNS", columns);
  SCREEN *screen = newterm(term, output, input);
  nc_put_back("LINES", lines_before);
  nc_put_back("COLUMNS", columns_before);
  use_env(FALSE);
  if (!screen) return NULL;
  cbreak();
  noecho();
  nonl();
  /* Inserting and deleting characters or lines would move the pixels of an image. Scrolling a part of the
     screen would too, and no option of curses forbids that. */
  idcok(stdscr, FALSE);
  idlok(stdscr, FALSE);
  scrollok(stdscr, FALSE);
  leaveok(stdscr, FALSE);
  if (has_colors()) {
    start_color();
    use_default_colors();
  }
  return screen;
}

static inline void nc_close(void *screen) {
  endwin();
  delscreen((SCREEN *)screen);
}

static inline void nc_leave(void) { endwin(); }
static inline void nc_keep_modes(void) { def_prog_mode(); }
static inline void nc_restore_modes(void) { reset_prog_mode(); }
static inline int nc_colors(void) { return has_colors() ? COLORS : 0; }
static inline int nc_color_pairs(void) { return has_colors() ? COLOR_PAIRS : 0; }
static inline int nc_define_pair(int pair, int foreground, int background) {
  return init_extended_pair(pair, foreground, background);
}

enum { NC_BOLD = 1, NC_DIM = 2, NC_UNDERLINE = 4, NC_REVERSE = 8 };

/* Writes one character (a base and its marks, ended by 0) in attributes of NC_* and a colour pair. */
static inline void nc_put(int row, int column, const wchar_t *text, int attributes, int pair) {
  attr_t style = A_NORMAL;
  if (attributes & NC_BOLD) style |= A_BOLD;
  if (attributes & NC_DIM) style |= A_DIM;
  if (attributes & NC_UNDERLINE) style |= A_UNDERLINE;
  if (attributes & NC_REVERSE) style |= A_REVERSE;
  cchar_t cell;
  if (setcchar(&cell, text, style, 0, &pair) == OK) mvadd_wch(row, column, &cell);
}

static inline void nc_erase(void) { erase(); }
static inline void nc_resize(int rows, int columns) { resize_term(rows, columns); }
static inline void nc_clear_on_update(void) { clearok(curscr, TRUE); }

/* Sends what changed. */
static inline void nc_send(void) {
  wnoutrefresh(stdscr);
  doupdate();
}

/* Sends what changed and places the cursor; `row` < 0 hides it. */
static inline void nc_update(int row, int column) {
  curs_set(row >= 0);
  if (row >= 0) move(row, column);
  nc_send();
}

/* Sets the locale of characters from the environment and returns its encoding; C.UTF-8 if that is no UTF-8, so that
   widths of characters are known. */
static inline const char *nc_set_locale(void) {
  static char encoding[64];
  const char *found = setlocale(LC_CTYPE, "") ? nl_langinfo(CODESET) : "ANSI_X3.4-1968";
  snprintf(encoding, sizeof encoding, "%s", found);
  if (strcmp(encoding, "UTF-8") != 0) setlocale(LC_CTYPE, "C.UTF-8");
  return encoding;
}
