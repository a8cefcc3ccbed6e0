package bench

import (
	"bufio"
	"context"
	_ "embed" // the peer's program
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/scoring/model"
)

//go:embed predict.py
var lightgbmProgram string

// scoring measures S1. With a peer, every prediction must have the peer's bits.
func (r *run) scoring(ctx context.Context) error {
	text := forestText(r.trees)
	e, err := model.Load("lightgbm", []byte(text))
	if err != nil {
		return err
	}
	in, out := inputColumns(r.rows), make([]float64, r.rows)
	l := Line{
		ID: "S1", Unit: "rows/s", Peer: "lightgbm: not run here: name an interpreter that has it in FRESHET_BENCH_PYTHON",
		Size: fmt.Sprintf("%d rows, %d trees x %d leaves x %d inputs", r.rows, r.trees, leaves, inputs),
		Note: "one thread each; the best of rounds in turn; values in memory before and after",
	}
	var p *predictor
	if r.Python != "" {
		if p, err = r.startPredictor(ctx, text, in); err != nil {
			return err
		}
		defer p.close()
		l.Peer, l.Versions = "lightgbm predict, bit-equal", map[string]string{"lightgbm": p.version}
	}
	var ours, theirs side
	for n := range r.rounds {
		r.tell(fmt.Sprintf("round %d of %d", n+1, r.rounds))
		start, before := r.Now(), cpu()
		e.Predict(in, r.rows, out)
		ours.round(float64(r.rows), r.since(start), cpu()-before)
		if p == nil {
			continue
		}
		took, busy, err := p.round()
		if err != nil {
			return err
		}
		theirs.round(float64(r.rows), took, busy)
	}
	l.Value, l.CPU, l.PerCPU, l.PeerPerCPU = ours.rate, ours.cpu, ours.perCPU, theirs.perCPU
	if p != nil {
		if err := p.compare(out); err != nil {
			return err
		}
		l.versus(theirs.rate)
	}
	return r.write(l)
}

// predictor is a process that predicts with LightGBM when it is told to.
type predictor struct {
	version string
	cmd     *exec.Cmd
	ask     io.WriteCloser
	answers *bufio.Reader
	wrong   strings.Builder // what it says on standard error
	out     string
}

func (r *run) startPredictor(ctx context.Context, text string, in [][]float64) (*predictor, error) {
	dir, err := filepath.Abs(r.dir)
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot tell where %s is", r.dir)
	}
	modelFile, input, output := filepath.Join(dir, "model.txt"), filepath.Join(dir, "input"), filepath.Join(dir, "output")
	rows := make([]byte, 0, 8*len(in)*r.rows)
	for k := range r.rows {
		for i := range in {
			rows = binary.LittleEndian.AppendUint64(rows, math.Float64bits(in[i][k]))
		}
	}
	if err := os.WriteFile(modelFile, []byte(text), 0o644); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot write the model")
	}
	if err := os.WriteFile(input, rows, 0o644); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot write the rows to score")
	}
	p := &predictor{out: output, cmd: exec.CommandContext(ctx, r.Python, "-c", lightgbmProgram, modelFile, input, strconv.Itoa(len(in)), output)}
	p.cmd.Dir = r.dir // no module of where we were started is in its way
	p.cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1")
	p.cmd.Stderr = &p.wrong
	if p.ask, err = p.cmd.StdinPipe(); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot start %s", r.Python)
	}
	answers, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot start %s", r.Python)
	}
	p.answers = bufio.NewReader(answers)
	if err := p.cmd.Start(); err != nil {
		return nil, fault.Wrap(fault.Usage, err, "cannot start %s", r.Python).At("FRESHET_BENCH_PYTHON")
	}
	line, err := p.line()
	if err != nil {
		p.close()
		return nil, err
	}
	var hello struct{ Version string }
	if err := json.Unmarshal([]byte(line), &hello); err != nil {
		p.close()
		return nil, fault.Wrap(fault.Failed, err, "%s answered %q", r.Python, line)
	}
	p.version = hello.Version
	return p, nil
}

// line reads one answer; when there is none the process has ended, and said why.
func (p *predictor) line() (string, error) {
	s, err := p.answers.ReadString('\n')
	if err != nil {
		err = p.cmd.Wait() // until then its standard error is not read to the end
		return "", fault.Wrap(fault.Failed, err, "the peer's process ended: %s", strings.TrimSpace(p.wrong.String())).
			At("FRESHET_BENCH_PYTHON").ToMend("name an interpreter whose environment has lightgbm: python -m pip install lightgbm")
	}
	return strings.TrimSpace(s), nil
}

// round lets it predict all rows once, and gives the seconds and CPU-seconds.
func (p *predictor) round() (took, busy float64, err error) {
	if _, err := io.WriteString(p.ask, "\n"); err != nil {
		return 0, 0, fault.Wrap(fault.Failed, err, "the peer's process does not listen")
	}
	s, err := p.line()
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscan(s, &took, &busy); err != nil {
		return 0, 0, fault.Wrap(fault.Failed, err, "the peer's process answered %q", s)
	}
	return took, busy, nil
}

// compare wants the same bits as the peer's last round gave.
func (p *predictor) compare(want []float64) error {
	b, err := os.ReadFile(p.out)
	if err != nil {
		return fault.Wrap(fault.Failed, err, "the peer's predictions cannot be read")
	}
	if len(b) != 8*len(want) {
		return fault.New(fault.Failed, "the peer predicted %d bytes for %d rows", len(b), len(want)).At("%s", p.out)
	}
	for i, w := range want {
		if got := binary.LittleEndian.Uint64(b[8*i:]); got != math.Float64bits(w) {
			return fault.New(fault.Failed, "row %d: freshet predicts %v, LightGBM %s predicts %v", i, w, p.version, math.Float64frombits(got))
		}
	}
	return nil
}

// close lets the process end; a second call does nothing.
func (p *predictor) close() {
	p.ask.Close() //nolint:errcheck // it may have ended by itself
	p.cmd.Wait()  //nolint:errcheck // what it had to say was read
}
