import Explorer
import Models
import Plans

extension ModelAccess {
  /// Files of all families.
  static let files = ModelAccess(
    open: { opening in
      var opening = opening
      let files = try ModelFiles(opening.model)
      opening.model = ExploreCommand.permanent(opening.model)
      let (_, reference, _, _) = try ExploreCommand.subject(files, teacher: opening.teacher)
      if let path = opening.plan {
        try naming(path) { () throws(PlanError) in
          try GraftPlan.load(path: path).check(against: reference)
        }
      }
      return opening
    },
    describe: { name, withStatistics in
      try InspectReport(name, listsTensors: true, withStatistics: withStatistics).lines
    })
}
