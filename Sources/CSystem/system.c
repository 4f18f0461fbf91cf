#define _GNU_SOURCE
#include "CSystem.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int csys_open_process(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

int csys_signal_process(int process, int signal) {
  return (int)syscall(SYS_pidfd_send_signal, process, signal, NULL, 0);
}

int csys_close_from(posix_spawn_file_actions_t *actions, int first) {
  return posix_spawn_file_actions_addclosefrom_np(actions, first);
}

struct csys_mapping {
  // What the signal handler reads. `start` is 0 while the node is not in use.
  _Atomic(uintptr_t) start;
  size_t length;
  int protection;
  atomic_int damaged;
  struct csys_mapping *next;
  // What the lock guards.
  struct csys_mapping *next_free;
  char *path;
  struct stat status;
};

// Nodes are never freed, so that the handler can walk the list at any time.
static _Atomic(csys_mapping *) mappings;
static csys_mapping *unused;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(const char *) damaged_path;
static struct sigaction previous;
static uintptr_t page_size;

static void handle_bus_error(int number, siginfo_t *info, void *context) {
  int saved = errno;
  uintptr_t address = (uintptr_t)info->si_addr;
  for (csys_mapping *mapping = atomic_load(&mappings); mapping; mapping = mapping->next) {
    uintptr_t start = atomic_load(&mapping->start);
    // A code that is not positive says that a process sent the signal.
    if (info->si_code <= 0 || start == 0 || address < start || address - start >= mapping->length) continue;
    uintptr_t first = address & ~(page_size - 1);
    uintptr_t end = (start + mapping->length + page_size - 1) & ~(page_size - 1);
    // Everything from here on: what follows a lost page is lost too, and few areas are better than many.
    void *zeros = mmap((void *)first, end - first, mapping->protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (zeros == MAP_FAILED) break;
    atomic_store(&mapping->damaged, 1);
    const char *none = NULL;
    atomic_compare_exchange_strong(&damaged_path, &none, mapping->path);
    errno = saved;
    return;
  }
  errno = saved;
  if (previous.sa_flags & SA_SIGINFO) {
    previous.sa_sigaction(number, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(number);
  } else {
    // The access is repeated, or the signal sent again, with nobody to handle it.
    signal(SIGBUS, SIG_DFL);
    raise(SIGBUS);
  }
}

/// Installs the handler, also above one that was installed later than ours.
static int install_handler(void) {
  struct sigaction current;
  if (sigaction(SIGBUS, NULL, &current) != 0) return -1;
  if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == handle_bus_error) return 0;
  previous = current;
  page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
  struct sigaction action = {.sa_sigaction = handle_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigemptyset(&action.sa_mask);
  return sigaction(SIGBUS, &action, NULL);
}

csys_mapping *csys_watch_mapping(void *start, size_t length, int protection, int file, const char *path) {
  struct stat status;
  char *name = strdup(path);
  if (name == NULL || fstat(file, &status) != 0) {
    free(name);
    return NULL;
  }
  pthread_mutex_lock(&lock);
  csys_mapping *mapping = unused;
  int is_new = mapping == NULL;
  if (is_new) mapping = calloc(1, sizeof *mapping);
  if (mapping == NULL || install_handler() != 0) {
    if (is_new) free(mapping);
    free(name);
    pthread_mutex_unlock(&lock);
    return NULL;
  }
  if (!is_new) unused = mapping->next_free;
  mapping->length = length;
  mapping->protection = protection;
  mapping->path = name;
  mapping->status = status;
  if (is_new) {
    mapping->next = atomic_load(&mappings);
    atomic_store(&mappings, mapping);
  }
  atomic_store(&mapping->start, (uintptr_t)start);
  pthread_mutex_unlock(&lock);
  return mapping;
}

void csys_unwatch_mapping(csys_mapping *mapping) {
  pthread_mutex_lock(&lock);
  atomic_store(&mapping->start, 0);
  // A damaged one is kept as it is, for its path.
  if (!atomic_load(&mapping->damaged)) {
    free(mapping->path);
    mapping->path = NULL;
    mapping->next_free = unused;
    unused = mapping;
  }
  pthread_mutex_unlock(&lock);
}

const char *csys_damaged_path(void) { return atomic_load(&damaged_path); }

int csys_changed_path(char *path, size_t size) {
  int found = 0;
  pthread_mutex_lock(&lock);
  for (csys_mapping *mapping = atomic_load(&mappings); mapping && !found; mapping = mapping->next) {
    struct stat now, *then = &mapping->status;
    // A mapping that can be written to is our own work.
    if (atomic_load(&mapping->start) == 0 || mapping->protection & PROT_WRITE || stat(mapping->path, &now) != 0 ||
        now.st_dev != then->st_dev || now.st_ino != then->st_ino)
      continue;
    found = now.st_size != then->st_size || now.st_mtim.tv_sec != then->st_mtim.tv_sec ||
            now.st_mtim.tv_nsec != then->st_mtim.tv_nsec;
    if (found && size > 0) {
      strncpy(path, mapping->path, size - 1);
      path[size - 1] = 0;
    }
  }
  pthread_mutex_unlock(&lock);
  return found;
}
