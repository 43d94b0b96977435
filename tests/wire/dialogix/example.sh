curl -X POST https://api.dialogix.ch/v1/chat/completions \
  -H "Authorization: Bearer ak-your-key" \
  -H "Content-Type: application/json" \
  -d '{ "model": "aion-v3", "messages": [ {"role": "user", "content": "Explain quantum computing in 3 sentences."} ], "temperature": 0.7 }'
