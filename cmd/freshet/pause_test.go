package main

import (
	"strings"
	"testing"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
)

// A paused view answers that it is, and not with old rows; resumed it has what happened meanwhile.
func TestAViewPausedByHand(t *testing.T) {
	w := newWorld(t, itemsTable, "")
	w.up()
	server := []string{"--server", w.sys.grpcAddr}
	items := func(want int64) {
		t.Helper()
		if row, _ := w.served("spent", "account 1"); row.Status != freshetv1.Status_PRESENT || row.Values[0].GetInt64() != want {
			t.Fatalf("account 1 is %v, want %d items", row, want)
		}
	}
	items(15)
	out, code := command(t, pauseCommand(), append([]string{"spent"}, server...)...)
	if code != 0 || out != "spent is paused. It goes on with: freshet resume spent\n" {
		t.Fatalf("exit %d: %s", code, out)
	}
	w.exec("insert into public.items values (1001, 'account 1', 1); delete from public.items where id in (1, 8)")
	if row, _ := w.served("spent", "account 1"); row.Status != freshetv1.Status_UNAVAILABLE || !strings.Contains(row.Reason, "it was paused\n  to mend: freshet resume spent") {
		t.Errorf("account 1 is %v", row)
	}
	out, code = command(t, resumeCommand(), append([]string{"spent"}, server...)...)
	if code != 0 || !strings.Contains(out, "spent goes on with the end of public.items#1, which is done: 99 rows read") {
		t.Fatalf("exit %d: %s", code, out)
	}
	items(14)
	out, code = command(t, pauseCommand(), append([]string{"nothing"}, server...)...)
	if code != 4 || !strings.Contains(out, "there is no view") {
		t.Errorf("exit %d: %s", code, out)
	}
}
