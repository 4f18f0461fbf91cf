/// Named characters of HTML 4, lower-case names only, because captions are lower-cased first.
enum HTMLEntities {
  /// Names that are also recognised without a semicolon, with their code points in hexadecimal.
  private static let legacy = table(
    """
    aacute e1 acirc e2 acute b4 aelig e6 agrave e0 amp 26 aring e5 atilde e3 auml e4 brvbar a6 ccedil e7 cedil b8 \
    cent a2 copy a9 curren a4 deg b0 divide f7 eacute e9 ecirc ea egrave e8 eth f0 euml eb frac12 bd frac14 bc \
    frac34 be gt 3e iacute ed icirc ee iexcl a1 igrave ec iquest bf iuml ef laquo ab lt 3c macr af micro b5 middot \
    b7 nbsp a0 not ac ntilde f1 oacute f3 ocirc f4 ograve f2 ordf aa ordm ba oslash f8 otilde f5 ouml f6 para b6 \
    plusmn b1 pound a3 quot 22 raquo bb reg ae sect a7 shy ad sup1 b9 sup2 b2 sup3 b3 szlig df thorn fe times d7 \
    uacute fa ucirc fb ugrave f9 uml a8 uuml fc yacute fd yen a5 yuml ff
    """)

  /// Names that need a semicolon.
  private static let other = table(
    """
    alefsym 2135 alpha 3b1 and 2227 ang 2220 apos 27 asymp 2248 bdquo 201e beta 3b2 bull 2022 cap 2229 chi 3c7 \
    circ 2c6 clubs 2663 cong 2245 crarr 21b5 cup 222a dagger 2020 darr 2193 delta 3b4 diams 2666 empty 2205 emsp \
    2003 ensp 2002 epsilon 3b5 equiv 2261 eta 3b7 euro 20ac exist 2203 fnof 192 forall 2200 frasl 2044 gamma 3b3 \
    ge 2265 harr 2194 hearts 2665 hellip 2026 image 2111 infin 221e int 222b iota 3b9 isin 2208 kappa 3ba lambda \
    3bb lang 27e8 larr 2190 lceil 2308 ldquo 201c le 2264 lfloor 230a lowast 2217 loz 25ca lrm 200e lsaquo 2039 \
    lsquo 2018 mdash 2014 minus 2212 mu 3bc nabla 2207 ndash 2013 ne 2260 ni 220b notin 2209 nsub 2284 nu 3bd \
    oelig 153 oline 203e omega 3c9 omicron 3bf oplus 2295 or 2228 otimes 2297 part 2202 permil 2030 perp 22a5 phi \
    3c6 pi 3c0 piv 3d6 prime 2032 prod 220f prop 221d psi 3c8 radic 221a rang 27e9 rarr 2192 rceil 2309 rdquo 201d \
    real 211c rfloor 230b rho 3c1 rlm 200f rsaquo 203a rsquo 2019 sbquo 201a scaron 161 sdot 22c5 sigma 3c3 sigmaf \
    3c2 sim 223c spades 2660 sub 2282 sube 2286 sum 2211 sup 2283 supe 2287 tau 3c4 there4 2234 theta 3b8 thetasym \
    3d1 thinsp 2009 tilde 2dc trade 2122 uarr 2191 upsih 3d2 upsilon 3c5 weierp 2118 xi 3be zeta 3b6 zwj 200d zwnj \
    200c
    """)

  private static func table(_ text: String) -> [String: Character] {
    let words = text.split(separator: " ")
    return Dictionary(
      uniqueKeysWithValues: stride(from: 0, to: words.count - 1, by: 2).compactMap { place in
        UInt32(words[place + 1], radix: 16).flatMap(Unicode.Scalar.init).map {
          (String(words[place]), Character($0))
        }
      })
  }

  /// The character of a name without its semicolon.
  static func character(_ name: some StringProtocol, needsNoSemicolon: Bool = false) -> Character? {
    let name = String(name)
    return legacy[name] ?? (needsNoSemicolon ? nil : other[name])
  }

  /// The character of a numeric reference, by HTML's rules: code points of Windows-1252 for the controls, and
  /// U+FFFD for what is no character; nil for controls that stand for nothing.
  static func character(_ number: UInt32?) -> Character? {
    guard let number else { return "\u{FFFD}" }
    if (0x80...0x9F).contains(number) { return Windows1252.character(UInt8(number)) }
    if number == 0 || number > 0x10FFFF { return "\u{FFFD}" }
    guard let scalar = Unicode.Scalar(number) else { return "\u{FFFD}" }
    let isControl =
      number < 0x09 || number == 0x0B || (0x0E...0x1F).contains(number) || number == 0x7F
    let isNoncharacter = (0xFDD0...0xFDEF).contains(number) || number & 0xFFFE == 0xFFFE
    return isControl || isNoncharacter ? nil : Character(scalar)
  }
}

/// Characters of Windows-1252, where undefined bytes stand for the control characters of their number.
enum Windows1252 {
  private static let high: [UInt32] = [
    0x20AC, 0x81, 0x201A, 0x192, 0x201E, 0x2026, 0x2020, 0x2021, 0x2C6, 0x2030, 0x160, 0x2039,
    0x152, 0x8D,
    0x17D, 0x8F, 0x90, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014, 0x2DC, 0x2122, 0x161,
    0x203A,
    0x153, 0x9D, 0x17E, 0x178,
  ]

  /// The character of a byte.
  static func character(_ byte: UInt8) -> Character {
    let code = (0x80...0x9F).contains(byte) ? high[Int(byte) - 0x80] : UInt32(byte)
    return Character(Unicode.Scalar(code) ?? "\u{FFFD}")
  }
}
