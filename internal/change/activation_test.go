package change

import "testing"

func TestActivations(t *testing.T) {
	c, err := NewActivation(ActivationDetail{View: "orders", Action: Pause})
	if err != nil || c.Kind != Activation || c.Detail != `{"view":"orders","action":"pause"}` {
		t.Fatalf("%+v, %v", c, err)
	}
	if d, err := c.Activates(); err != nil || d.View != "orders" || d.Action != Pause {
		t.Errorf("read as %+v, %v", d, err)
	}
	for _, detail := range []string{"", "{", `{"view":"orders"}`, `{"view":"orders","action":"drop"}`} {
		if _, err := (&Control{Kind: Activation, Detail: detail}).Activates(); err == nil {
			t.Errorf("detail %q was read", detail)
		}
	}
}
