package verify

import (
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// StandsStill gives the reports of a view that was not folded up to the cut. What is served, published and
// kept of it is as of where it stands still, so comparing it with the source would only find that: every
// place says why it cannot be judged, and no output is comparable.
func StandsStill(v *feature.View, cut change.CutRecord, why string) []*Report {
	var out []*Report
	for _, place := range []string{Served, DeltaTopicPlace, CurrentPlace, HistoryPlace} {
		out = append(out, standsStill(v.Name, place, v.Outputs(), cut, why))
	}
	return out
}

// PredictionsStandStill is StandsStill of a model that reads such a view.
func PredictionsStandStill(m *Model, cut change.CutRecord, why string) *Report {
	return standsStill(m.Name, PredictionsPlace, m.Outputs, cut, why)
}

func standsStill(name, place string, outputs []feature.Field, cut change.CutRecord, why string) *Report {
	r := &Report{View: name, Place: place, Cut: cut.ID, Error: why, NotComparable: map[string]string{}}
	for _, o := range outputs {
		r.NotComparable[o.Name] = why
	}
	return r
}

// Judge is the verdict over all places: an error when one differs from the source, or cannot be judged.
func Judge(reports []*Report) error {
	differ, unjudged := 0, 0
	why := ""
	for _, r := range reports {
		switch {
		case r.Error != "":
			if unjudged++; unjudged == 1 {
				why = r.View + ", " + r.Place + ": " + r.Error
			}
		case r.DifferenceCount > 0:
			differ++
		}
	}
	switch {
	case differ > 0 && unjudged > 0:
		return fault.New(fault.Failed, "%d of %d places differ from the source, %d more cannot be judged, first %s", differ, len(reports), unjudged, why)
	case differ > 0:
		return fault.New(fault.Failed, "%d of %d places differ from the source", differ, len(reports))
	case unjudged > 0:
		return fault.New(fault.Failed, "%d of %d places cannot be judged, first %s", unjudged, len(reports), why)
	}
	return nil
}
