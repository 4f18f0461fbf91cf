import Foundation
import Text

/// How the desktop is told that a run has ended.
package enum NotificationMode: String, CaseIterable, Sendable {
  /// OSC 9, which iTerm2, kitty, Ghostty, WezTerm and foot show.
  case osc9
  /// OSC 777, which urxvt, foot, Ghostty and WezTerm show.
  case osc777
  /// Not at all.
  case none
}

/// What a terminal does to call for attention.
package struct Announcement: Equatable, Sendable {
  /// One sentence of the notification.
  package var text: String
  /// Whether the bell rings.
  package var rings: Bool
  /// How the desktop is told.
  package var notification: NotificationMode
  /// The title of the window; nil leaves it.
  package var title: String?

  /// Makes an announcement.
  package init(
    _ text: String = "", rings: Bool = false, notification: NotificationMode = .none,
    title: String? = nil
  ) {
    (self.text, self.rings) = (text, rings)
    (self.notification, self.title) = (notification, title)
  }

  /// Saves the title of the window, and puts it back (xterm's title stack).
  static let keepsTitle = "\u{1b}[22;2t"
  static let restoresTitle = "\u{1b}[23;2t"

  /// The bytes that a terminal reads, in tmux those that it hands on to the one around it.
  package func bytes(isMultiplexed: Bool) -> [UInt8] {
    var bytes: [UInt8] = rings ? [7] : []
    // Semicolons separate the fields of OSC 777.
    let text = text.printableSentence.replacing(";", with: ",")
    let note: String? =
      switch notification {
      case .osc9: "\u{1b}]9;\(text)\u{1b}\\"
      case .osc777: "\u{1b}]777;notify;espalier;\(text)\u{1b}\\"
      case .none: nil
      }
    if let note, !text.isEmpty {
      bytes += isMultiplexed ? KittyGraphics.passed(Array(note.utf8)) : Array(note.utf8)
    }
    if let title { bytes += Array("\u{1b}]2;\(title.printableSentence)\u{1b}\\".utf8) }
    return bytes
  }
}

extension Terminal {
  /// The bytes that put a text into the clipboard (OSC 52); in tmux also into that of the terminal around it, which
  /// tmux hands on in one of two ways, by its settings.
  package static func copying(_ text: String, isMultiplexed: Bool) -> [UInt8] {
    let bytes = Array("\u{1b}]52;c;\(Data(text.utf8).base64EncodedString())\u{1b}\\".utf8)
    return bytes + (isMultiplexed ? KittyGraphics.passed(bytes) : [])
  }

  /// Puts a text into the clipboard.
  package func copy(_ text: String) {
    write(Self.copying(text, isMultiplexed: capabilities.isMultiplexed))
  }

  /// Calls for attention.
  package func announce(_ announcement: Announcement) {
    if announcement.title != nil { keepTitle() }
    write(announcement.bytes(isMultiplexed: capabilities.isMultiplexed))
  }
}
