package change

import (
	"encoding/json"
	"fmt"

	"github.com/freshet-io/freshet/internal/fault"
)

// What an activation can do to a view.
const (
	// Pause: from this place on nothing is folded into the view.
	Pause = "pause"
	// Resume: the view goes on as soon as the tables it uses have been read whole after this place.
	Resume = "resume"
	// Bound is of no view: from this place on the bytes that a view may keep in a partition of a table it joins are Bytes.
	Bound = "bound"
	// Switch: the generation takes the place of the one that is shown, here if it is built and held, else as soon as it is built.
	Switch = "switch"
	// Compare: the generation that is built and held is compared with the one that is shown, as the rows of both are here.
	Compare = "compare"
)

// ActivationDetail is the detail of an activation control, as JSON.
type ActivationDetail struct {
	View   string `json:"view"`
	Action string `json:"action"` // one of the constants
	// Generation of the view, as whoever wrote this knows it. A generation that is built beside the one before reads
	// what is read after its first Resume; 0 is of none.
	Generation uint32 `json:"generation,omitempty"`
	// Hold, with that first Resume: built, it is compared and folded on, and not shown before a Switch.
	Hold  bool  `json:"hold,omitempty"`
	Bytes int64 `json:"bytes,omitempty"` // of Bound
}

// NewActivation gives an activation without its place, which whoever publishes it knows.
func NewActivation(d ActivationDetail) (Control, error) {
	b, err := json.Marshal(d)
	if err != nil {
		return Control{}, fmt.Errorf("activation of %s: %w", d.View, err)
	}
	return Control{Kind: Activation, Detail: string(b)}, nil
}

// Activates reads the detail of an activation; what it does not know it refuses, as a later version wrote it.
func (c *Control) Activates() (ActivationDetail, error) {
	var d ActivationDetail
	if err := json.Unmarshal([]byte(c.Detail), &d); err != nil {
		return d, fault.Wrap(fault.Failed, err, "detail of %s %q", c.Kind, c.ID)
	}
	switch d.Action {
	case Pause, Resume, Bound, Switch, Compare:
	default:
		return d, fault.New(fault.Failed, "%s %q does %q to view %q, which this freshet does not know", c.Kind, c.ID, d.Action, d.View).
			ToMend("run the version that wrote it, or a later one")
	}
	return d, nil
}
