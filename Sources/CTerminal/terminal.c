#define _GNU_SOURCE
#include "CTerminal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kd.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static const int posted_signals[] = {SIGWINCH, SIGCONT, SIGTSTP, SIGTERM, SIGINT, SIGHUP};
static const int fatal_signals[] = {SIGSEGV, SIGABRT, SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSYS, SIGQUIT};
enum {
  posted_count = sizeof posted_signals / sizeof posted_signals[0],
  fatal_count = sizeof fatal_signals / sizeof fatal_signals[0],
};

static struct sigaction posted_before[posted_count], fatal_before[fatal_count];
static struct sigaction posted_action;
static int watching;
static int pipe_ends[2] = {-1, -1};
static atomic_int unread_ends;

static atomic_int armed;
static int armed_terminal = -1;
static struct termios armed_modes;
static char armed_bytes[1024];
static size_t armed_count;

static int captured = -1;
static int saved_output[3] = {-1, -1, -1};

static void write_all(int file, const char *bytes, size_t count) {
  while (count > 0) {
    ssize_t written = write(file, bytes, count);
    if (written > 0) {
      bytes += written;
      count -= (size_t)written;
    } else if (written < 0 && errno == EINTR) {
      continue;
    } else {
      return;
    }
  }
}

static void copy_captured(int file) {
  char buffer[4096];
  off_t offset = 0;
  for (;;) {
    ssize_t count = pread(captured, buffer, sizeof buffer, offset);
    if (count <= 0) return;
    write_all(file, buffer, (size_t)count);
    offset += count;
  }
}

/* Async-signal-safe; does its work once. */
static void restore_terminal(void) {
  if (!atomic_exchange(&armed, 0)) return;
  struct sigaction ignore;
  memset(&ignore, 0, sizeof ignore);
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGTTOU, &ignore, NULL); /* a background process may restore the modes too */
  write_all(armed_terminal, armed_bytes, armed_count);
  tcsetattr(armed_terminal, TCSANOW, &armed_modes);
  if (captured >= 0) copy_captured(armed_terminal);
}

/* Restores the terminal and dies of the signal, by its default action: the Swift runtime's own handler would
   ask questions on the terminal. */
static void die(int signal_number) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = SIG_DFL;
  restore_terminal();
  sigaction(signal_number, &action, NULL);
  raise(signal_number); /* delivered when the handler returns */
}

static void handle_posted(int signal_number) {
  int error = errno;
  if (signal_number == SIGTERM || signal_number == SIGINT || signal_number == SIGHUP) {
    if (atomic_fetch_add(&unread_ends, 1) >= 2) {
      die(signal_number);
      errno = error;
      return;
    }
  }
  char byte = (char)signal_number;
  ssize_t ignored = write(pipe_ends[1], &byte, 1); /* a full pipe already says enough */
  (void)ignored;
  errno = error;
}

int ct_watch_signals(void) {
  static int registered;
  static char stack_bytes[1 << 16];
  if (watching) return pipe_ends[0];
  if (pipe2(pipe_ends, O_NONBLOCK | O_CLOEXEC) != 0) return -1;
  if (!registered) {
    registered = 1;
    atexit(restore_terminal);
  }
  /* A stack overflow leaves no room for the handler: it gets its own stack. */
  stack_t stack;
  memset(&stack, 0, sizeof stack);
  stack.ss_sp = stack_bytes;
  stack.ss_size = sizeof stack_bytes;
  sigaltstack(&stack, NULL);

  atomic_store(&unread_ends, 0);
  memset(&posted_action, 0, sizeof posted_action);
  posted_action.sa_handler = handle_posted;
  posted_action.sa_flags = SA_RESTART;
  sigemptyset(&posted_action.sa_mask);
  for (int i = 0; i < posted_count; i++) sigaction(posted_signals[i], &posted_action, &posted_before[i]);
  struct sigaction fatal_action;
  memset(&fatal_action, 0, sizeof fatal_action);
  fatal_action.sa_handler = die;
  fatal_action.sa_flags = SA_ONSTACK;
  sigemptyset(&fatal_action.sa_mask);
  for (int i = 0; i < fatal_count; i++) sigaction(fatal_signals[i], &fatal_action, &fatal_before[i]);
  watching = 1;
  return pipe_ends[0];
}

void ct_signals_read(void) { atomic_store(&unread_ends, 0); }

void ct_unwatch_signals(void) {
  if (!watching) return;
  watching = 0;
  for (int i = 0; i < posted_count; i++) sigaction(posted_signals[i], &posted_before[i], NULL);
  for (int i = 0; i < fatal_count; i++) sigaction(fatal_signals[i], &fatal_before[i], NULL);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  pipe_ends[0] = pipe_ends[1] = -1;
}

void ct_stop_self(void) {
  struct sigaction stop;
  memset(&stop, 0, sizeof stop);
  stop.sa_handler = SIG_DFL;
  sigaction(SIGTSTP, &stop, NULL);
  raise(SIGTSTP);
  if (watching) sigaction(SIGTSTP, &posted_action, NULL);
}

void ct_arm(int terminal, const struct termios *modes, const char *bytes, size_t count) {
  atomic_store(&armed, 0);
  armed_terminal = terminal;
  armed_modes = *modes;
  armed_count = count < sizeof armed_bytes ? count : sizeof armed_bytes;
  memcpy(armed_bytes, bytes, armed_count);
  atomic_store(&armed, 1);
}

void ct_disarm(void) { atomic_store(&armed, 0); }

int ct_capture_output(void) {
  if (captured >= 0) return 0;
  int memory = memfd_create("espalier-output", MFD_CLOEXEC);
  if (memory < 0) return -1;
  fcntl(memory, F_SETFL, O_APPEND);
  for (int file = 1; file <= 2; file++) {
    if (!isatty(file)) continue;
    saved_output[file] = fcntl(file, F_DUPFD_CLOEXEC, 3);
    if (saved_output[file] >= 0) dup2(memory, file);
  }
  captured = memory;
  return 0;
}

void ct_release_output(void) {
  if (captured < 0) return;
  for (int file = 1; file <= 2; file++) {
    if (saved_output[file] < 0) continue;
    dup2(saved_output[file], file);
    close(saved_output[file]);
    saved_output[file] = -1;
  }
  copy_captured(2);
  close(captured);
  captured = -1;
}

int ct_window_size(int terminal, int *rows, int *columns, int *width, int *height) {
  struct winsize size;
  if (ioctl(terminal, TIOCGWINSZ, &size) != 0) return -1;
  *rows = size.ws_row;
  *columns = size.ws_col;
  *width = size.ws_xpixel;
  *height = size.ws_ypixel;
  return 0;
}

int ct_is_console(int terminal) {
  char type = 0;
  return ioctl(terminal, KDGKBTYPE, &type) == 0;
}
