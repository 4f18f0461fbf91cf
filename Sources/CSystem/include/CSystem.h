#ifndef CSYSTEM_H
#define CSYSTEM_H

#include <spawn.h>
#include <stddef.h>
#include <sys/types.h>

// System calls that Swift does not see, and mapped files that other programs change.

/// A descriptor of a process that is not reaped (pidfd_open(2)); -1 with errno if there is none.
int csys_open_process(pid_t pid);
/// Sends a signal to the process of such a descriptor (pidfd_send_signal(2)); -1 with errno.
int csys_signal_process(int process, int signal);
/// Lets a program that is spawned begin without the descriptors from `first` on.
int csys_close_from(posix_spawn_file_actions_t *actions, int first);

/// A watched mapping of a file.
typedef struct csys_mapping csys_mapping;

/// Watches a mapping of the open file `path`: an access to pages that the file has lost reads zeros instead of ending
/// the process by SIGBUS, and the mapping counts as damaged. `protection` is that of the mapping (mmap(2)).
/// Returns NULL with errno if memory is short or the handler cannot be installed.
csys_mapping *csys_watch_mapping(void *start, size_t length, int protection, int file, const char *path);
/// Stops watching; to be called before the memory is unmapped.
void csys_unwatch_mapping(csys_mapping *mapping);

/// The path of the first mapping of this process that was found damaged, NULL for none. Never freed.
const char *csys_damaged_path(void);
/// Copies the path of a watched file that was written to since it was mapped into `path` and returns 1; 0 for none.
/// A file that another one has replaced under its name keeps its content and does not count.
int csys_changed_path(char *path, size_t size);

#endif
