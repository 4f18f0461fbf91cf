#pragma once
#ifndef _XOPEN_SOURCE_EXTENDED
#define _XOPEN_SOURCE_EXTENDED 1
#endif
#define NCURSES_WIDECHAR 1
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
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

static inline void nc_set_number(const char *name, int number) {
  char text[16];
  snprintf(text, sizeof text, "%d", number);
  setenv(name, text, 1);
}

static inline void *nc_open(const char *term, FILE *output, FILE *input) {
  /* Curses would take the size from the user's environment or the terminal, however large, and with the size of
     terminfo it would set a scrolling region of its own, in which images scroll the screen. It is told the
     terminal's bounded size; nc_resize sets later ones. */
  struct winsize size;
  int known = ioctl(fileno(output), TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0;
  use_env(known ? TRUE : FALSE);
  if (known) {
    nc_set_number("LINES", size.ws_row < 500 ? size.ws_row : 500);
    nc_set_number("COLUMNS", size.ws_col < 1000 ? size.ws_col : 1000);
  }
  SCREEN *screen = newterm(term, output, input);
  if (known) {
    unsetenv("LINES");
    unsetenv("COLUMNS");
  }
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

/* Sets the locale of characters from the environment; C.UTF-8 if that is no UTF-8. */
static inline void nc_set_locale(void) {
  if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8") != 0) setlocale(LC_CTYPE, "C.UTF-8");
}
