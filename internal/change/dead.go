package change

import "fmt"

// Dead is a record that could not be processed, kept for ever with why and how to replay it.
type Dead struct {
	Stage  string // capture, delta, …
	What   string // what could not be processed
	Why    string
	From   string // where it came from: topic/partition/offset, or a position
	Replay string // the command that replays it
	Key    []byte
	Value  []byte
}

// DeadRecord is the Avro record name of dead letters.
const DeadRecord = "freshet.dead.Dead"

// DeadSchema gives the Avro schema of dead letters as JSON.
func DeadSchema() string {
	field := func(name string, t any) map[string]any { return map[string]any{"name": name, "type": t} }
	return mustJSON(map[string]any{
		"type": "record", "name": "Dead", "namespace": "freshet.dead",
		"fields": []any{
			field("stage", "string"), field("what", "string"), field("why", "string"),
			field("from", "string"), field("replay", "string"), field("key", "bytes"), field("value", "bytes"),
		},
	})
}

// AppendDead appends the Avro binary of d (without frame).
func AppendDead(b []byte, d *Dead) []byte {
	for _, s := range []string{d.Stage, d.What, d.Why, d.From, d.Replay, string(d.Key), string(d.Value)} {
		b = appendString(b, s)
	}
	return b
}

// DecodeDead reads the Avro binary of one dead letter.
func DecodeDead(b []byte) (*Dead, error) {
	r := &reader{b: b}
	d := &Dead{Stage: r.string(), What: r.string(), Why: r.string(), From: r.string(), Replay: r.string()}
	d.Key, d.Value = append([]byte(nil), r.raw()...), append([]byte(nil), r.raw()...)
	if err := r.done(); err != nil {
		return nil, fmt.Errorf("dead letter: %w", err)
	}
	return d, nil
}
