import Foundation
import Plans
import Runs
import TerminalUI
import Testing

import Explorer

/// Many runs in the list: motions, filters, orders, and what is done to several at once.
@Suite struct RunListTests {
  private func pane(_ state: AppState) -> RunsPane {
    for overlay in state.overlays.reversed() {
      if case .runs(let pane) = overlay { return pane }
    }
    return RunsPane()
  }

  private func selection(_ state: AppState) -> String? { pane(state).selection }

  private func type(_ text: String, into state: inout AppState) {
    for character in text { press(&state, .character(character)) }
  }

  /// Each motion with the run that is highlighted after it; the list has the runs m29 to m00.
  @Test(arguments: [
    ("j", "m28"), ("5j", "m24"), ("G", "m00"), ("gg", "m29"), ("Gk", "m01"), ("7gg", "m23"),
    ("30G", "m00"), ("99j", "m00"), ("G99k", "m29"), ("3G", "m27"), ("k", "m29"),
  ])
  func motions(keys: String, expected: String) {
    var state = Samples.many()
    press(&state, "r", "g", "g")
    type(keys, into: &state)
    #expect(selection(state) == expected)
  }

  /// A set that is drawn shows how far it is and a growing sheet, read again with every tick.
  @Test func setsShowTheirSheet() throws {
    var state = Samples.state()
    let set = RunSummary(
      id: "s1", name: "graft", kind: .sample, modelHash: "another", createdAt: 5, state: .running)
    _ = update(&state, .runsScanned([set]))
    press(&state, "r")
    #expect(press(&state, .enter) == [.readSet(id: "s1")])
    #expect(state.keyContext == .text)
    #expect(update(&state, .ticked(6)).contains(.readSet(id: "s1")))
    let sheet = Samples.picture(3)
    _ = update(&state, .setRead(id: "s1", lines: ["running, drawing images 8 of 64"], sheet: sheet))
    var frame = ExplorerView.frame(state)
    #expect(frame.text().contains("set graft") && frame.text().contains("drawing images 8 of 64"))
    #expect(frame.images.map(\.contentHash) == [Picture(sheet).contentHash])
    // What comes late for another set is dropped, and a missing sheet keeps the last one.
    _ = update(&state, .setRead(id: "s2", lines: ["other"], sheet: nil))
    _ = update(&state, .setRead(id: "s1", lines: ["done"], sheet: nil))
    frame = ExplorerView.frame(state)
    #expect(
      frame.text().contains("done") && !frame.text().contains("other") && frame.images.count == 1)
    // It can be paused, unlike a preview.
    press(&state, "q")
    #expect(press(&state, "p") == [.control(id: "s1", .pause)])
  }

  /// Ctrl-D moves by half of the rows that are shown, PgDn by all of them.
  @Test func pages() {
    var state = Samples.many(Samples.small)
    press(&state, "r", "g", "g", .pageDown)
    let page = 29 - (Int(selection(state)?.dropFirst() ?? "") ?? 29)
    #expect(page == 17)
    press(&state, .pageUp, .control("d"))
    #expect(selection(state) == "m21")
    press(&state, .control("u"))
    #expect(selection(state) == "m29")
    press(&state, "2", .control("d"))
    #expect(selection(state) == "m13")
  }

  @Test func filters() {
    var state = Samples.many()
    press(&state, "r", "/")
    type("state:running loss<.2", into: &state)
    // What is typed is in use at once.
    #expect(state.listed(in: pane(state)).map(\.id) == ["m29", "m25", "m20"])
    press(&state, .enter)
    #expect(state.keyContext == .runs && selection(state) == "m29")
    press(&state, "n", "n", "n")
    #expect(selection(state) == "m29")
    press(&state, "N", "N")
    #expect(selection(state) == "m25")
    // Esc clears the filter before it leaves, and the filter stays for the next time otherwise.
    press(&state, "q")
    #expect(state.overlay != nil && pane(state).filter.isEmpty)
    press(&state, "/")
    type("tag:even", into: &state)
    press(&state, .enter, ":")
    #expect(state.listed(in: pane(state)).count == 15)
  }

  /// A filter that cannot be read says why and leaves the list as it was; Esc takes back what was typed.
  @Test func wrongFilters() {
    var state = Samples.many()
    press(&state, "r", "/")
    type("loss<.2", into: &state)
    press(&state, .enter, "/")
    let before = pane(state).filter
    type(" sate:x", into: &state)
    guard case .prompt(let prompt) = state.overlay else {
      Issue.record("no prompt")
      return
    }
    #expect(prompt.problem?.contains("unknown key \"sate\"") == true)
    press(&state, .enter)
    #expect(state.keyContext == .prompt)
    press(&state, .escape)
    #expect(pane(state).filter == before && state.keyContext == .runs)
  }

  @Test func orders() {
    var state = Samples.many()
    press(&state, "r")
    var seen: [RunOrder.Column] = []
    for _ in RunOrder.Column.allCases {
      press(&state, ">")
      seen.append(pane(state).order.column)
    }
    #expect(Set(seen) == Set(RunOrder.Column.allCases) && seen.last == .age)
    press(&state, "o")
    #expect(state.listed(in: pane(state)).map(\.id) == (0..<30).map { String(format: "m%02d", $0) })
    press(&state, "o")
    while pane(state).order.column != .loss { press(&state, "<") }
    let losses = state.listed(in: pane(state)).compactMap(\.loss)
    #expect(losses == losses.sorted() && losses.count > 20)
    let text = ExplorerView.frame(state).text()
    #expect(text.contains("loss↑"))
    press(&state, "o")
    #expect(ExplorerView.frame(state).text().contains("loss↓"))
  }

  /// On no width is a number cut: every cell of the loss, steps and age columns is one of a run, in full.
  @Test(arguments: [80, 90, 104, 120, 160, 200])
  func columns(width: Int) throws {
    var state = Samples.many(Size(columns: width, rows: 40))
    press(&state, "r")
    let lines = ExplorerView.frame(state).text().split(separator: "\n").map(String.init)
    let heading = try #require(lines.first { $0.contains("state") && $0.contains("steps") })
    #expect(heading.contains("loss") && heading.contains("age"))
    for run in state.runs.records {
      let line = try #require(lines.first { $0.contains(" \(run.name) ") }, "\(run.name)")
      for text in ["\(run.step)/\(run.total)", run.stateLabel] {
        #expect(line.contains(" \(text) "), "\(line)")
      }
      if let loss = run.loss { #expect(line.contains(" \(Format.loss(loss)) "), "\(line)") }
    }
    #expect(width < 160 || heading.contains("tags") && heading.contains("operators"))
  }

  /// One question names the runs; only those that are meant are touched.
  @Test func bulk() {
    var state = Samples.many()
    press(&state, "r", "/")
    type("id:m2", into: &state)
    press(&state, .enter, "*")
    #expect(pane(state).marked.count == 10)
    #expect(press(&state, "C").isEmpty)
    let alive = state.runs.records.filter { $0.id.hasPrefix("m2") && $0.isAlive }.map(\.id)
    #expect(state.overlay == .confirm(.many(.cancel, ids: alive)) && alive.count > 1)
    let text = ExplorerView.frame(state).text()
    #expect(alive.allSatisfy { id in text.contains(state.runs.title(of: id)) })
    #expect(press(&state, "y") == alive.map { .control(id: $0, .cancel) })
    press(&state, "x")
    let ended = state.runs.records.filter { $0.id.hasPrefix("m2") && !$0.isAlive }.map(\.id)
    #expect(state.overlay == .confirm(.many(.remove, ids: ended)))
    #expect(press(&state, "y") == [.removeRuns(ids: ended)])
    // Esc takes the marks away first.
    press(&state, .escape)
    #expect(pane(state).marked.isEmpty && state.keyContext == .runs)
  }

  @Test func removalOfOne() {
    var state = Samples.many()
    press(&state, "r", "g", "g", "x")
    let first = state.runs.records[0]
    #expect(first.isAlive && state.notice?.text == "\(first.name) is running; cancel it first")
    press(&state, "j", "x")
    #expect(state.overlay == .confirm(.many(.remove, ids: ["m28"])))
    press(&state, "n")
    press(&state, "x")
    #expect(press(&state, "y") == [.removeRuns(ids: ["m28"])])
    // The highlight stays at its place when the run is gone.
    _ = update(&state, .runsScanned(state.runs.records.filter { $0.id != "m28" }))
    #expect(selection(state) == "m27")
    _ = update(&state, .runsRemoved(ids: ["m28"], problem: nil))
    #expect(state.notice == .note("removed 1 run"))
  }

  @Test func retryOfSeveral() {
    var state = Samples.many()
    press(&state, "r", "/")
    type("state:failed,done", into: &state)
    press(&state, .enter, "*", "R")
    let failed = state.runs.records.filter { $0.state == .failed }.map(\.id)
    #expect(!failed.isEmpty)
    #expect(press(&state, .enter) == failed.map { .retryRun(id: $0, rateFactor: 0.5) })
  }

  @Test func aRetryChangesTheEngine() {
    var state = Samples.many()
    state.engines = ["two"]
    press(&state, "r", "/")
    type("state:failed", into: &state)
    press(&state, .enter, "R")
    let id = selection(state)
    press(&state, .control("u"))
    type("1", into: &state)
    press(&state, .down, .down, .right)
    let expected: [Effect] =
      id.map { [.retryRun(id: $0, rateFactor: 1, engine: EngineChange(to: nil))] } ?? []
    #expect(!expected.isEmpty && press(&state, .enter) == expected)
  }

  @Test func notesAndTags() {
    var state = Samples.many()
    press(&state, "r", "g", "g", "e")
    type("half the rate", into: &state)
    #expect(press(&state, .enter) == [.annotateRuns(ids: ["m29"], .note("half the rate"))])
    press(&state, " ", "j", " ", "t")
    type("paper -even", into: &state)
    #expect(
      press(&state, .enter)
        == [.annotateRuns(ids: ["m29", "m28"], .tags(adding: ["paper"], removing: ["even"]))])
    press(&state, "t")
    type("a:b", into: &state)
    press(&state, .enter)
    guard case .prompt(let prompt) = state.overlay else { return }
    #expect(prompt.problem?.contains("is no tag") == true)
  }

  /// The same motions and searches in logs, pickers, help and pages of text.
  @Test func everyList() {
    var state = Samples.many(Samples.small)
    press(&state, .enter)
    guard case .picker(let picker) = state.overlay else {
      Issue.record("no picker")
      return
    }
    func index(_ state: AppState) -> Int? {
      if case .picker(let picker) = state.overlay { picker.index } else { nil }
    }
    press(&state, "G")
    #expect(index(state) == picker.entries.count - 1)
    press(&state, "2", "k", "g", "g", "3", "j")
    #expect(index(state) == 3)
    press(&state, "/")
    type("sliding", into: &state)
    press(&state, .enter)
    #expect(state.notice?.text.hasPrefix("“sliding”") == true)
    press(&state, .escape, "r", "l")
    let lines = (1...200).map { "line \($0)" }
    _ = update(&state, .logRead(id: "m29", lines: lines))
    func below(_ state: AppState) -> Int? {
      if case .log(let page) = state.overlay { page.below } else { nil }
    }
    let rows = 24 - 6
    press(&state, "g", "g")
    #expect(below(state) == 200 - rows)
    press(&state, "1", "0", "1", "G")
    #expect(below(state) == 200 - rows - 100)
    press(&state, .control("d"))
    #expect(below(state) == 200 - rows - 109)
    press(&state, "/")
    type("line 15", into: &state)
    press(&state, .enter)
    #expect(below(state) == 200 - rows - 149)
    press(&state, "n", "N")
    #expect(below(state) == 200 - rows - 149)
    press(&state, "/")
    type("absent", into: &state)
    press(&state, .enter)
    #expect(state.notice?.text.contains("is not on this page") == true)
  }
}

/// Runs that end while nobody looks.
@Suite struct AnnouncementTests {
  private func ending(_ id: String, _ end: RunState, _ state: inout AppState) -> [Effect] {
    var records = state.runs.records
    for index in records.indices where records[index].id == id { records[index].state = end }
    return update(&state, .runsScanned(records))
  }

  @Test func unseenEndsAreAnnounced() {
    var state = Samples.many()
    let effects = ending("m29", .done, &state)
    #expect(
      effects == [
        .announce(
          Announcement(
            "graft-m29 is done", rings: true, notification: .osc9,
            title: "espalier: graft-m29 is done"))
      ])
    // The title is taken back by the next key, once.
    #expect(press(&state, "j") == [.announce(Announcement(title: "espalier"))])
    #expect(press(&state, "j").isEmpty)
    state.configuration.settings.bell = false
    state.configuration.settings.notification = .none
    state.configuration.settings.title = false
    #expect(ending("m25", .failed, &state) == [.announce(Announcement("graft-m25 is failed"))])
    #expect(state.notice == .failure("graft-m25 is failed"))
  }

  /// What is on the screen while keys are pressed, or was stopped from here, needs no announcement.
  @Test func seenEndsAreNot() {
    var state = Samples.busy(Samples.large)
    #expect(ending("r3", .done, &state).isEmpty)
    state = Samples.busy(Samples.large)
    state.now += 60
    #expect(ending("r3", .done, &state).count == 1)
    state = Samples.busy(Samples.large)
    press(&state, "r")
    #expect(ending("r3", .done, &state).count == 1)
    state = Samples.many()
    press(&state, "r", "g", "g", "C", "y")
    #expect(ending("m29", .cancelled, &state).isEmpty)
    // The first look at the runs tells nothing new.
    state.runs.isScanned = false
    #expect(ending("m25", .done, &state).isEmpty)
  }

  @Test func bytes() {
    func text(_ announcement: Announcement, isMultiplexed: Bool = false) -> String {
      String(decoding: announcement.bytes(isMultiplexed: isMultiplexed), as: UTF8.self)
    }
    #expect(
      text(Announcement("a; b", rings: true, notification: .osc9)) == "\u{7}\u{1b}]9;a, b\u{1b}\\")
    #expect(
      text(Announcement("x\u{1b}]0;y", notification: .osc777)).hasPrefix(
        "\u{1b}]777;notify;espalier;x"))
    #expect(
      text(Announcement("x\u{1b}]0;y", notification: .osc777)).filter { $0 == "\u{1b}" }.count == 2)
    #expect(
      text(Announcement("a", notification: .osc9), isMultiplexed: true)
        == "\u{1b}Ptmux;\u{1b}\u{1b}]9;a\u{1b}\u{1b}\\\u{1b}\\")
    #expect(text(Announcement("a", title: "t")) == "\u{1b}]2;t\u{1b}\\")
    #expect(text(Announcement("a")).isEmpty)
  }
}

extension Samples {
  /// Thirty runs of every state, the newest first: m29 … m00, those with even numbers tagged.
  static func many(_ size: Size = large) -> AppState {
    var state = state(size)
    state.runs.isScanned = true
    state.runs.records = (0..<30).reversed().map { index in
      let states: [RunState] = [
        .running, .done, .failed, .paused, .cancelled, .running, .lost, .done, .done, .failed,
      ]
      let id = String(format: "m%02d", index)
      var run = record(
        id, "graft-\(id)", index == 29 ? .running : states[index % 10],
        step: 7 * index * index, total: 10_000, age: 60 * Double(30 - index) * Double(30 - index))
      run.loss = index % 7 == 3 ? nil : 3.2 / Double(1 + index)
      try? run.annotation.setTags(adding: index % 2 == 0 ? ["even"] : [])
      run.changes = GraftPlan.Changes(edits: [
        attention(index % 28): index % 3 == 0 ? hyena : narrow
      ])
      return run
    }
    return state
  }
}
