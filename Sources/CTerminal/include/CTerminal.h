#pragma once
/* Signals of a full-screen program, and a terminal that is restored even if the program crashes.
   What runs inside a handler calls async-signal-safe functions only. One terminal per process. */
#include <stddef.h>
#include <termios.h>

/* Starts posting SIGWINCH, SIGCONT, SIGTSTP, SIGTERM, SIGINT and SIGHUP, one byte each, to a pipe, and catching
   fatal signals. Three unread requests to end are taken as fatal: the program hangs. Returns the pipe's read end
   or -1. */
int ct_watch_signals(void);

/* Says that the pipe has been read. */
void ct_signals_read(void);

/* Gives every signal its former action and closes the pipe. */
void ct_unwatch_signals(void);

/* Stops this process as an uncaught SIGTSTP would; returns when it is continued. */
void ct_stop_self(void);

/* From now on a fatal signal or exit() writes `bytes` to `terminal` and sets its modes, once. */
void ct_arm(int terminal, const struct termios *modes, const char *bytes, size_t count);

/* Ends that: the terminal has been restored in order. */
void ct_disarm(void);

/* Points standard output and standard error, where they are terminals, to memory. Returns 0 or -1. */
int ct_capture_output(void);

/* Points them back and writes what was captured to standard error. */
void ct_release_output(void);

/* TIOCGWINSZ: returns 0 and fills the four numbers, or -1. */
int ct_window_size(int terminal, int *rows, int *columns, int *width, int *height);

/* Whether a terminal is a virtual console of Linux. */
int ct_is_console(int terminal);
