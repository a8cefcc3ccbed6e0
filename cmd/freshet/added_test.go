package main

import (
	"fmt"
	"strings"
	"testing"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/verify"
)

// A view more is taken by the next start, which reads its table beside the stream: what is served of both views
// equals the source, also after another start.
func TestAViewMore(t *testing.T) {
	base := newWorld(t, admitTables, "")
	defs := strings.Replace(admitDefinitions, "n * 4611686018427387904 != 1", "n != 100", 1)
	two := defs + "---\n" + strings.Replace(strings.Replace(defs[strings.Index(defs, "kind: FeatureView"):strings.Index(defs, "---\nkind: FeatureSet")], "name: spent", "name: other", 1), "n != 100", "n != 6", 1)
	for life, text := range []string{defs, two, two} {
		t.Run(fmt.Sprint(life), func(t *testing.T) {
			base.definitions(text)
			w := *base
			w.t = t
			w.up()
			w.exec(fmt.Sprintf("insert into public.items (id, account, n) values (%d, 'A', 7), (%d, 'C', 6)", 10+life, 20+life))
			for _, p := range w.sys.node.Partitions("account") {
				for { // until every view goes on
					moved := p.Moved()
					if _, stands := p.Stopped("other"); !stands {
						break
					}
					<-moved
				}
			}
			reports, err := w.sys.verify(t.Context(), nil, func(string) {})
			if err == nil {
				err = verify.Judge(reports)
			}
			if err != nil || len(reports) < 1 {
				t.Fatalf("%v; %+v", err, reports)
			}
			if life == 0 {
				return
			}
			if row, _ := w.served("other", "A"); row.Status != freshetv1.Status_PRESENT || row.Values[0].GetInt64() != int64(2+life) {
				t.Errorf("A is %v", row)
			}
			if row, _ := w.served("other", "C"); row.Status != freshetv1.Status_NOT_FOUND {
				t.Errorf("C is %v", row)
			}
		})
		if t.Failed() {
			return
		}
	}
}
