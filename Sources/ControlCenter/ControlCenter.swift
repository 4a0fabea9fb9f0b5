// ControlCenter
