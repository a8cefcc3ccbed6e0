package definitions

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/freshet-io/freshet/internal/fault"
)

const view = "apiVersion: freshet/v1\nkind: FeatureView\nname: v\ngroup: g\nentity: [k]\nsource: public.t\nkey: {k: k}\nevent_time: at\nttl: 90d\nfeatures:\n  - {name: n, agg: count, windows: [1d, 7d]}\n"

func TestLoad(t *testing.T) {
	d, err := Load(fstest.MapFS{
		"a.yaml": {Data: []byte("apiVersion: freshet/v1\nkind: PartitionGroup\nname: g\nkey: {name: k, type: string}\npartitions: 4\n---\n" + view)},
		"b.txt":  {Data: []byte("not read")},
	}, "defs")
	if err != nil {
		t.Fatal(err)
	}
	v := d.Views[0]
	if len(d.Groups) != 1 || v.Meta.String() != "defs/a.yaml:7" || v.TTL.String() != "90d" || len(v.Features[0].Windows) != 2 {
		t.Fatalf("%+v", d)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{strings.Replace(view, "windows", "window", 1), "defs/a.yaml:11: unknown key window\n  to mend: did you mean windows?"},
		{strings.Replace(view, "FeatureView", "FeatureVeiw", 1), `defs/a.yaml:1: kind "FeatureVeiw" is not known`},
		{strings.Replace(view, "v1", "v9", 1), `apiVersion "freshet/v9" is not known`},
		{strings.Replace(view, "90d", "90 days", 1), "is not a time span"},
		{"kind: PartitionGroup\nname: g\n", "no feature view is defined"},
	} {
		_, err := Load(fstest.MapFS{"a.yaml": {Data: []byte(c.text)}}, "defs")
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
