curl -X POST https://aimichat.app/v1/chat/completions \
-H "Authorization: Bearer aimichat_your_api_key_here" \
-H "Content-Type: application/json" \
-d '{
"messages": [
{"role": "user", "content": "What is the capital of France?"}
],
"max_tokens": 100
}'
