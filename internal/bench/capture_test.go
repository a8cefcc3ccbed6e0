package bench

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/testkit"
)

func TestCapture(t *testing.T) {
	all := lines(t, "capture", Options{Dir: testkit.Dir(t)})
	if ids(all) != "C1, C2" || all[0].Ratio == nil || all[1].Ratio != nil || all[0].Versions["postgresql"] == "" {
		t.Errorf("%+v", all)
	}
}

// frame is a message of PostgreSQL's protocol.
func frame(kind byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
}

func TestSkipRowsCountsRowsOnly(t *testing.T) {
	row := func(kind string) []byte { return frame('d', "w"+strings.Repeat("I", 24)+kind+"I row") }
	stream := bytes.Join([][]byte{
		frame('W', "\x00\x00\x00"), row("R"), row("B"), row("I"), frame('d', "k"+strings.Repeat("I", 17)), row("U"), row("D"), row("C"), row("T"),
	}, nil)
	for rows, want := range map[int]string{0: "", 3: "", 4: "1 rows early: EOF"} {
		err := skipRows(bufio.NewReader(bytes.NewReader(stream)), rows)
		if (err == nil) != (want == "") || (err != nil && err.Error() != want) {
			t.Errorf("%d rows: %v", rows, err)
		}
	}
	err := skipRows(bufio.NewReader(bytes.NewReader(append(stream, frame('E', "no such slot")...))), 4)
	if err == nil || !strings.Contains(err.Error(), "no such slot") {
		t.Error(err)
	}
}
