#pragma once
#include <locale.h>
#include <wchar.h>

/* Declared by <wchar.h> only under feature macros that would change other declarations too. */
extern int wcwidth(wchar_t character);

/* Fills widths[c] with wcwidth(c) of the C.UTF-8 locale, for this thread only and for this call only. */
static inline void tx_fill_widths(signed char *widths, int count) {
  locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
  locale_t before = utf8 ? uselocale(utf8) : (locale_t)0;
  for (int c = 0; c < count; c++) widths[c] = (signed char)wcwidth((wchar_t)c);
  if (utf8) {
    uselocale(before);
    freelocale(utf8);
  }
}
