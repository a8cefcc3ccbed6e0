package verify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/feature"
)

// session gives the ordinal of a feature's gap.
func (b *builder) session(f *feature.Feature) int {
	return slices.IndexFunc(b.sessions, func(s *feature.Feature) bool { return s.Window == f.Window })
}

// runs adds to the rows, which are in moments, whether each is of the session that is open, g… by gap. Rows
// up to the hop of log time (h…) are numbered by entity into runs (gaps and islands): one begins where
// the hop before is further away than the gap. The last run is the open session if log time is no further
// away from its last hop.
func (b *builder) runs() string {
	var hops, before, last []string
	for i, f := range b.sessions {
		now, gap := floorHop("$1::bigint", f.Hop), f.Window.Microseconds()
		hops = append(hops, fmt.Sprintf("case when m.us < %s + %d then %s end as h%d", now, f.Hop.Microseconds(), floorHop("m.us", f.Hop), i))
		before = append(before, fmt.Sprintf("m.h%[1]d - lag(m.h%[1]d) over (partition by %[2]s, m.h%[1]d is null order by m.us) > %[3]d as b%[1]d", i, b.keys("m"), gap))
		last = append(last, fmt.Sprintf(`m.h%[1]d is not null and %[3]s - max(m.h%[1]d) over (partition by %[2]s) <= %[4]d
      and m.h%[1]d >= coalesce(max(m.h%[1]d) filter (where m.b%[1]d) over (partition by %[2]s), m.h%[1]d) as g%[1]d`, i, b.keys("m"), now, gap))
	}
	layer := func(name string, columns []string, of string) string {
		return fmt.Sprintf("%s as (\n  select m.*,\n    %s\n  from %s m)", name, strings.Join(columns, ",\n    "), of)
	}
	return strings.Join([]string{layer("hops", hops, "moments"), layer("runs", before, "hops"), layer("rows", last, "runs")}, ",\n")
}
