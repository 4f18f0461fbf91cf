import Pictures
import Plans
import Runs
import Search
import TerminalUI

/// Something that happened: a key, the clock, or a fact from disk.
package enum Action: Equatable, Sendable {
  /// A key was pressed.
  case keyPressed(Key)
  /// The mouse was pressed, dragged, released or turned.
  case pointed(MouseEvent)
  /// The terminal has told what it can do.
  case terminalFound(TerminalCapabilities)
  /// Paths that begin with a text were read.
  case filesListed(text: String, [String])
  /// A setting could not be kept.
  case settingNotSaved(String)
  /// Text was pasted.
  case textPasted(String)
  /// The window has a new size.
  case resized(Size)
  /// Time went by; the value is in seconds since 1970.
  case ticked(Double)
  /// Ctrl-C.
  case interrupted
  /// A command was asked for by name.
  case commanded(Command, argument: String?, count: Int?)

  /// The run root was read.
  case runsScanned([RunSummary])
  /// So many runs are not read yet.
  case runsUnread(Int)
  /// A run's plan was read; `adopt` loads it into the document.
  case runOpened(id: String, plan: GraftPlan, adopt: Bool)
  /// A run's plan could not be read.
  case runOpenFailed(String)
  /// Runs were read for a comparison.
  case runsRead([FocusedRun])
  /// More was read of the runs of a comparison.
  case runsReadOn([FocusedRun])
  /// The followed run's events were read.
  case historyRead(id: String, RunHistory)
  /// A distillation or finetuning was started.
  case trainingStarted(id: String, plan: GraftPlan, kind: Job.Kind)
  /// A distillation or finetuning could not be started.
  case trainingFailed(String)
  /// A distillation or finetuning waits in the queue.
  case trainingQueued(name: String)
  /// A chain of runs waits in the queue.
  case chainQueued(name: String)
  /// A measurement or report was started.
  case reportStarted(id: String)
  /// The result of a measurement or report was read.
  case reportRead(title: String, lines: [String])
  /// The end of a run's log was read.
  case logRead(id: String, lines: [String])
  /// What a run that draws a set has done was read.
  case setRead(id: String, lines: [String], sheet: RGBImage?)
  /// Runs were removed, or could not be.
  case runsRemoved(ids: [String], problem: String?)
  /// The steps of the checkpoints that a run keeps were read.
  case checkpointsRead(id: String, steps: [Int])
  /// Pictures were written to a file.
  case picturesSaved(path: String)
  /// Something asked of a run could not be done.
  case controlFailed(String)

  /// A job computes the teacher's statistics.
  case analysisStarted(runID: String)
  /// The job came this far.
  case analysisProgressed(done: Int, total: Int)
  /// The teacher's statistics were read.
  case analysisRead(ModelAnalysis)
  /// The teacher's statistics could not be computed.
  case analysisFailed(String)

  /// The library of the model's operators and finished searches were read.
  case libraryRead(ReplacementCosts, [FinishedSearch])
  /// The best plans for all budgets were found.
  case frontSolved(generation: Int, [ParetoSolver.Solution])
  /// Building the library or a search was started or queued.
  case searchingStarted(Job.Kind, isQueued: Bool)

  /// The mean attention maps of a block were read: of all heads, then of each; none when there are none.
  case attentionMapsRead(block: Int, [RGBImage])

  /// A preview's job was started.
  case previewStarted(generation: Int, runID: String)
  /// A preview's job came this far.
  case previewProgressed(generation: Int, done: Int, total: Int)
  /// A preview's picture was read; with a step it is the one predicted after it.
  case previewSampled(generation: Int, PreviewRole, RGBImage, step: Int? = nil)
  /// A preview's job ended, with the reason if it failed.
  case previewEnded(generation: Int, problem: String?)

  /// The plan was written.
  case planSaved(GraftPlan, path: String)
  /// There is a file already where the plan should go, or its content has changed; `present` is the
  /// plan in it, if it holds one.
  case planExists(path: String, present: GraftPlan? = nil)
  /// Another program has changed the plan's file.
  case planChangedOnDisk(path: String)
  /// The plan could not be written.
  case planSaveFailed(String)
  /// A plan was read.
  case planLoaded(GraftPlan, path: String)
  /// A plan, or another model, could not be read.
  case planLoadFailed(String)
  /// The plan that a step wants is for another model.
  case planOfOtherModel(PlanStep, Opening)
  /// Another model can be shown, by a name that holds in every directory.
  case modelOpened(asked: Opening, Opening)
  /// What a file of tensors holds, or why it cannot be read.
  case inspected(String, [String])
}

/// Input or output that an update requests.
package enum Effect: Equatable, Sendable {
  /// Write a plan; without `overwrite` an existing file is left alone and reported, unless it holds the
  /// plan `known`.
  case savePlan(GraftPlan, path: String, overwrite: Bool, known: GraftPlan? = nil)
  /// Read a plan for the model.
  case loadPlan(path: String)
  /// Find out whether another model can be shown.
  case openModel(Opening)
  /// Read what a file of tensors holds.
  case inspect(String)
  /// Read a run's plan and follow its events from now on.
  case openRun(id: String, adopt: Bool)
  /// Read the plans and events of some runs.
  case readRuns(ids: [String])
  /// Follow the events of one run only; nil follows none.
  case followRun(id: String?)
  /// Make a run directory for a distillation or finetuning and start its worker or put it into the
  /// queue; `weights` are those that finetuning starts from.
  case startTraining(
    GraftPlan, kind: Job.Kind, weights: PlanWeights = PlanWeights(), options: RunOptions = .init())
  /// Queue both stages of a plan, measurements and a report.
  case startChain(GraftPlan, report: ReportRequest, options: RunOptions)
  /// Make a run that measures trained grafts, or also writes a page about them.
  case startReport(ReportRequest, name: String, writesPage: Bool)
  /// Read the result of a measurement or report.
  case readReport(id: String)
  /// Read what a run that draws a set has done.
  case readSet(id: String)
  /// Append a request to a run's controls.
  case control(id: String, Control)
  /// Kill a run's worker, which does not stop by itself.
  case killRun(id: String)
  /// Start a worker again on a run that has ended, its learning rates multiplied; without a step from the newest
  /// checkpoint, without an engine on the same one.
  case retryRun(id: String, rateFactor: Double, step: Int? = nil, engine: EngineChange? = nil)
  /// Raise the priority of a waiting run by an amount.
  case raisePriority(id: String, by: Int)
  /// Remove runs with their checkpoints.
  case removeRuns(ids: [String])
  /// Change the notes of runs.
  case annotateRuns(ids: [String], RunAnnotationChange)
  /// Read the end of a run's log.
  case readLog(id: String)
  /// Read the teacher's statistics, or start a job that computes them; `again` does not look for earlier ones.
  case findAnalysis(again: Bool)
  /// Read the library of the model's operators and finished searches.
  case readLibrary
  /// Find the best plans for all budgets.
  case solveFront(
    generation: Int, [Candidate], depth: Int, Measure, ParetoSolver.Constraints)
  /// Start building the library or a search, or put it into the queue.
  case startSearching(Job, GraftPlan, RunOptions)
  /// Read the mean attention maps of a block.
  case readAttentionMaps(block: Int)
  /// Start a job that samples a preview; `plan` is nil for the teacher alone, `weights` are those of its
  /// operators.
  case startPreview(
    generation: Int, plan: GraftPlan?, weights: PlanWeights, settings: PreviewSettings,
    options: PreviewOptions = PreviewOptions())
  /// Keep unsaved edits where a killed explorer leaves them; nil removes them.
  case keepUnsaved(UnsavedPlan?)
  /// Remove the file of unsaved edits of another explorer.
  case removeUnsaved(file: String)
  /// Record what is shown, for the next start, and watch its file.
  case keepSession(Opening)
  /// Record how things are drawn, for the next start.
  case keepLayout(KeptLayout)
  /// Put a text into the clipboard of the terminal.
  case copy(String)
  /// Start a job that samples the graft of another run with its plan and newest weights.
  case startRunPreview(generation: Int, runID: String, settings: PreviewSettings)
  /// Read which checkpoints a run keeps.
  case readCheckpoints(id: String)
  /// Write pictures side by side to a PNG file that is not there yet.
  case savePictures([RGBImage], path: String)
  /// Add a command line to the file of those that were typed.
  case keepCommand(String, path: String)
  /// Read the paths of folders and files of a kind that begin with a text.
  case listFiles(String, FileKind = .plan)
  /// Ask the terminal anew what it can do.
  case probe
  /// Use the terminal in another way.
  case wish(Terminal.Wishes)
  /// Call for attention.
  case announce(Announcement)
  /// Write a setting to the configuration file.
  case saveSetting(key: String, value: String, path: String)
  /// Redraw the whole screen.
  case redraw
  /// Give the terminal back to the shell until the program is continued.
  case suspend
}
