package main

import (
	"strings"
	"testing"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
)

// What freshet nodes prints of hot keys and of partitions that have more to do than others.
func TestUnevenTraffic(t *testing.T) {
	of := func(group string, partition int32, changes uint64, keys ...*freshetv1.HotKey) *freshetv1.PartitionTraffic {
		return &freshetv1.PartitionTraffic{Group: group, Partition: partition, Changes: changes, HotKeys: keys}
	}
	all := []*freshetv1.PartitionTraffic{
		of("plane", 0, 100), of("plane", 1, 900, &freshetv1.HotKey{Key: "N1", Share: 0.31, Over: 0.01}, &freshetv1.HotKey{Key: "N2", Share: 0.12, Over: 0.05}),
		of("plane", 2, 100), of("plane", 3, 100), of("plane", 4, 100), of("plane", 5, 100), of("airport", 0, 50), of("airport", 1, 60),
	}
	got := uneven(all)
	if len(got) != 1 || !strings.Contains(got[0], "hot key: N1 has 31% of the changes of plane/1") {
		t.Errorf("%q", got)
	}
	all[1].Changes, all[1].HotKeys = 5000, nil
	if got = uneven(all); len(got) != 1 || !strings.Contains(got[0], "skew: plane/1 has 5.5 times") {
		t.Errorf("%q", got)
	}
	if got = uneven(all[6:]); got != nil {
		t.Errorf("%q", got)
	}
	all[1].HotKeys = []*freshetv1.HotKey{{Key: "N1", Share: 0.31}, {Key: "N2", Share: 0.12}, {Key: "N3", Share: 0.1}, {Key: "N4", Share: 0.1}}
	if got, none := hotNames(all[1]), hotNames(all[0]); got != "N1 31%, N2 12%, N3 10%" || none != "-" {
		t.Errorf("%q, %q", got, none)
	}
}
